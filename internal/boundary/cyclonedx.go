package boundary

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// The parts of CycloneDX 1.7 (ECMA-424) that a bill of materials here has.
type (
	bom struct {
		Schema       string       `json:"$schema"`
		Format       string       `json:"bomFormat"`
		Spec         string       `json:"specVersion"`
		Serial       string       `json:"serialNumber"`
		Version      int          `json:"version"`
		Metadata     bomMetadata  `json:"metadata"`
		Components   []*component `json:"components"`
		Dependencies []dependency `json:"dependencies"`
	}
	bomMetadata struct {
		Timestamp string     `json:"timestamp"`
		Component *component `json:"component"`
	}
	component struct {
		Type       string     `json:"type"`
		Ref        string     `json:"bom-ref"`
		Supplier   *supplier  `json:"supplier,omitempty"`
		Name       string     `json:"name"`
		Version    string     `json:"version,omitempty"`
		Hashes     []hash     `json:"hashes,omitempty"`
		Data       []data     `json:"data,omitempty"`
		Properties []property `json:"properties"`
	}
	supplier struct {
		Name string `json:"name"`
	}
	hash struct {
		Alg     string `json:"alg"`
		Content string `json:"content"`
	}
	data struct {
		Type string `json:"type"`
	}
	property struct {
		Name  string `json:"name"`
		Value string `json:"value"`
	}
	dependency struct {
		Ref       string   `json:"ref"`
		DependsOn []string `json:"dependsOn"`
	}
)

const agentRef = "agent"

// CycloneDX is the manifest as a CycloneDX bill of materials (ML-BOM, JSON), made
// at the given time: model, harness, browser, Sallyport, and what the boundary is
// declared of are components of the agent, whose version is the digest of all. Every fact is a
// property, with its grade, source, owner and the time when it was measured.
func (m Manifest) CycloneDX(at time.Time) ([]byte, error) {
	agent := &component{Type: "application", Ref: agentRef, Name: "agent/" + m.Agent, Version: string(m.Digest()), Properties: []property{}}
	out := bom{Schema: "http://cyclonedx.org/schema/bom-1.7.schema.json", Format: "CycloneDX", Spec: "1.7", Serial: serial(), Version: 1,
		Metadata: bomMetadata{Timestamp: at.UTC().Format(time.RFC3339), Component: agent}, Components: []*component{}}
	depends := []string{}
	for _, f := range m.Facts {
		c := agent
		if ref := partOf(f.Name); ref != agentRef {
			i := slices.IndexFunc(out.Components, func(c *component) bool { return c.Ref == ref })
			if i < 0 {
				i = len(out.Components)
				out.Components = append(out.Components, m.component(ref))
				depends = append(depends, ref)
			}
			c = out.Components[i]
		}
		c.Properties = append(c.Properties, properties(f)...)
	}
	out.Dependencies = []dependency{{agentRef, depends}}
	return json.MarshalIndent(out, "", "  ")
}

// partOf is the component that a fact is of: one for all facts of the model, and so
// on, and one for each thing that the boundary names by its digest.
func partOf(name string) string {
	switch kind, _, _ := strings.Cut(name, "."); kind {
	case "model", "harness", "browser", "sallyport":
		return kind
	case "identity", "containment":
		return agentRef
	}
	return name
}

func (m Manifest) component(ref string) *component {
	value := func(names ...string) string {
		for _, n := range names {
			if f, ok := m.Get(n); ok && f.Value != "" {
				return f.Value
			}
		}
		return ref
	}
	c := &component{Type: "application", Ref: ref, Name: ref}
	switch ref {
	case "model":
		// What is asked for may stand for a version; what answers is one.
		c.Type, c.Name = "machine-learning-model", value("model.requested", "model.id")
		c.Version = value("model.id")
		if f, ok := m.Get("model.provider"); ok {
			c.Supplier = &supplier{f.Value}
		}
	case "harness":
		c.Name, c.Hashes = value("harness.name", "harness.path"), hashes(value("harness.binary"))
	case "browser":
		c.Name = value("browser.kind")
		if f, ok := m.Get("browser.version"); ok {
			c.Version = f.Value
		}
	case "sallyport":
		c.Hashes = hashes(value("sallyport.binary"))
	default:
		c.Type, c.Data, c.Hashes = "data", []data{{"configuration"}}, hashes(value(ref))
	}
	return c
}

var sha256Digest = regexp.MustCompile(`^sha256:([0-9a-f]{64})$`)

// hashes is empty for what is no digest.
func hashes(value string) []hash {
	if found := sha256Digest.FindStringSubmatch(value); found != nil {
		return []hash{{"SHA-256", found[1]}}
	}
	return nil
}

func properties(f Fact) []property {
	name := "sallyport:" + f.Name
	out := []property{{name, f.Value}, {name + ":grade", string(f.Grade)}, {name + ":source", f.Source}, {name + ":owner", f.Owner}}
	if f.Grade != Declared {
		out = append(out, property{name + ":measured", f.Measured.UTC().Format(time.RFC3339)})
	}
	return out
}

// serial is a UUID of version 4 (RFC 9562): two bills of one boundary are two documents.
func serial() string {
	var b [16]byte
	rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("urn:uuid:%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
