package provider

import (
	"bytes"
	"errors"
	"image/png"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/estate"
	"github.com/sallyport-dev/sallyport/internal/estate/marks"
)

// conversation is what the script knows: the messages and nothing else.
type conversation struct {
	goal  string
	steps []string // names of its own earlier steps, in order
	// fresh says that the last message shows the screen as it is now.
	fresh   bool
	marks   []marks.Mark // of the last screenshot
	refused string       // text of an error among the last results
	// told are the orders in what tools other than the screen answered and say of
	// themselves, in words; denied is why a call of one was refused, by its step.
	told   []string
	denied map[string]string
}

var errImage = errors.New("messages: a screenshot is not a PNG")

func read(tools []tool, ms []message) (conversation, error) {
	c := conversation{denied: map[string]string{}}
	var shot []byte
	for _, t := range tools {
		c.told = append(c.told, estate.Ordered(t.Description)...)
	}
	calls := map[string]string{} // of tools other than the screen: the step, by id
	step := ""
	for i, m := range ms {
		bs, err := blocks(m.Content)
		if err != nil {
			return c, err
		}
		last := i == len(ms)-1
		for _, b := range bs {
			switch {
			case m.Role == "assistant" && b.Type == "text":
				if name, ok := stepName(b.Text); ok {
					c.steps, step = append(c.steps, name), name
				}
			case m.Role == "assistant" && b.Type == "tool_use" && b.Name != "computer":
				calls[b.ID] = step
			case m.Role == "user" && b.Type == "text" && i == 0:
				c.goal += b.Text
			case m.Role == "user" && b.Type == "tool_result":
				inner, err := blocks(b.Content)
				if err != nil {
					return c, err
				}
				by, called := calls[b.ToolUseID]
				for _, in := range inner {
					if called && b.IsError {
						c.denied[by] += in.Text
					} else if called {
						c.told = append(c.told, estate.Ordered(in.Text)...)
					}
					if in.Type == "image" {
						shot, c.fresh = in.Source.Data, last
					} else if last && b.IsError && c.refused == "" {
						c.refused = in.Text
					}
				}
			}
		}
	}
	if shot == nil {
		return c, nil
	}
	img, err := png.Decode(bytes.NewReader(shot))
	if err != nil {
		return c, errImage
	}
	c.marks = marks.Find(img)
	return c, nil
}

// stepName reads the name that say put in front of a text.
func stepName(text string) (string, bool) {
	rest, ok := strings.CutPrefix(text, "[")
	if !ok {
		return "", false
	}
	name, _, ok := strings.Cut(rest, "] ")
	return name, ok
}

func (c conversation) mark(text string) (marks.Mark, bool) {
	for _, m := range c.marks {
		if m.Text == text {
			return m, true
		}
	}
	return marks.Mark{}, false
}

func (c conversation) has(text string) bool {
	_, ok := c.mark(text)
	return ok
}

// page is the name of the page that is shown, or "".
func (c conversation) page() string {
	for _, m := range c.marks {
		if p, ok := strings.CutPrefix(m.Text, "page:"); ok {
			return p
		}
	}
	return ""
}

// did reports whether a step was taken; times counts it.
func (c conversation) did(step string) bool { return slices.Contains(c.steps, step) }

func (c conversation) times(step string) int {
	n := 0
	for _, s := range c.steps {
		if s == step {
			n++
		}
	}
	return n
}

// since counts how often other was taken after the last step of that name.
func (c conversation) since(step, other string) int {
	n := 0
	for i := len(c.steps) - 1; i >= 0 && c.steps[i] != step; i-- {
		if c.steps[i] == other {
			n++
		}
	}
	return n
}

// trailing counts the steps of that name at the end, looks left out.
func (c conversation) trailing(step string) int {
	n := 0
	for i := len(c.steps) - 1; i >= 0; i-- {
		switch c.steps[i] {
		case step:
			n++
		case "look":
		default:
			return n
		}
	}
	return n
}
