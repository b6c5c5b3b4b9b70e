package agent

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// findTools asks the door to tools what the task has, if there is such a door, and tells
// the model of them word for word: so they stay what their server was certified to say.
func (a *agent) findTools(ctx context.Context) error {
	if err := json.Unmarshal(tools, &a.tools); err != nil {
		return err
	}
	endpoint := a.o.Getenv("SALLYPORT_MCP_URL")
	if endpoint == "" {
		return nil
	}
	var err error
	client := mcp.NewClient(&mcp.Implementation{Name: "sample-agent", Version: "1"}, nil)
	if a.session, err = client.Connect(ctx, &mcp.StreamableClientTransport{Endpoint: endpoint, HTTPClient: a.client, DisableStandaloneSSE: true}, nil); err != nil {
		return fmt.Errorf("tools: %w", err)
	}
	for t, err := range a.session.Tools(ctx, nil) {
		if err != nil {
			return fmt.Errorf("tools: %w", err)
		}
		b, err := json.Marshal(map[string]any{"name": t.Name, "description": t.Description, "input_schema": t.InputSchema})
		if err != nil {
			return fmt.Errorf("tools: %w", err)
		}
		a.tools = append(a.tools, b)
		a.printf("tool %s", t.Name)
	}
	return nil
}

// call calls a tool once. A refusal is a result, so that the model reads it.
func (a *agent) call(ctx context.Context, name string, in json.RawMessage, result block) error {
	r, err := a.session.CallTool(ctx, &mcp.CallToolParams{Name: name, Arguments: in})
	if err != nil {
		return fmt.Errorf("tool %s: %w", name, err)
	}
	content := []block{}
	for _, c := range r.Content {
		switch x := c.(type) {
		case *mcp.TextContent:
			content = append(content, block{"type": "text", "text": x.Text})
		case *mcp.ImageContent:
			content = append(content, block{"type": "image", "source": map[string]string{"type": "base64", "media_type": x.MIMEType, "data": base64.StdEncoding.EncodeToString(x.Data)}})
		}
	}
	result["content"], result["is_error"] = content, r.IsError
	if r.IsError {
		a.printf("    refused: %v", content)
	}
	return nil
}
