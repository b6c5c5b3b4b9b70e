package connector

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

func (c *checker) body(op *Operation, at string, params map[string]bool) {
	b := op.Body
	if b == nil {
		return
	}
	if b.Type == BodyNone && (len(b.Fields) > 0 || b.AllowExtra) {
		c.bad(at, "a body of type none has no fields")
	}
	if b.Type != BodyNone && b.Type != BodyGraphQL && op.Method == "GET" {
		c.bad(at+".type", "a GET has no body")
	}
	if media, _, ok := mediaType(b.Media); b.Media != "" && (b.Type != BodyJSON || !ok || media != b.Media || !strings.HasSuffix(media, "+json")) {
		c.bad(at+".media", "only a json body has a media type, in lower case, without parameters, ending in +json")
	}
	c.graphQL(op, at)
	c.fields(b.Fields, b.Type, at+".fields", params)
}

var graphQLName = regexp.MustCompile(`^[_A-Za-z][_0-9A-Za-z]*$`)

func (c *checker) graphQL(op *Operation, at string) {
	b, g := op.Body, op.Body.GraphQL
	if (b.Type == BodyGraphQL) != (g != nil) {
		c.bad(at+".graphql", "a graphql body says which operation it is, and no other does")
	}
	if b.Type != BodyGraphQL || g == nil {
		return
	}
	switch {
	case op.Method != "GET" && op.Method != "POST":
		c.bad(at+".type", "a GraphQL request is a GET or a POST")
	case op.Method == "GET" && (g.Type != GraphQLQuery || op.Query != nil):
		c.bad(at+".graphql", "a GET is a query, and its query string is the GraphQL request and nothing else")
	}
	if !slices.Contains(g.Type.Values(), string(g.Type)) {
		c.bad(at+".graphql.type", "want query or mutation")
	}
	if len(g.Root) == 0 || g.Type == GraphQLMutation && len(g.Root) > 1 {
		c.bad(at+".graphql.root", "want the fields that a query selects, or the one of a mutation")
	}
	for i, f := range g.Root {
		if !graphQLName.MatchString(f) || slices.Contains(g.Root[:i], f) {
			c.bad(fmt.Sprintf("%s.graphql.root[%d]", at, i), "want the name of a field, once")
		}
	}
	if g.Name != "" && !graphQLName.MatchString(g.Name) {
		c.bad(at+".graphql.name", "want a GraphQL name")
	}
}

func (c *checker) fields(fs map[string]Field, in BodyType, at string, params map[string]bool) {
	for _, name := range slices.Sorted(maps.Keys(fs)) {
		f, at := fs[name], at+"."+name
		kinds := 0
		for _, set := range []bool{f.Param != "", f.Const != nil, f.Ignored, f.Secret != ""} {
			if set {
				kinds++
			}
		}
		if kinds != 1 {
			c.bad(at, "want exactly one of param, const, ignored, secret")
		}
		switch {
		case f.Secret == "":
		case !nameForm.MatchString(f.Secret):
			c.bad(at+".secret", "want the name of a credential source: lower-case letters, digits and hyphens")
		case in == BodyGraphQL:
			c.bad(at+".secret", "an argument of GraphQL has more than one spelling: no secret is put in there")
		case f.Type != "" && f.Type != TypeString:
			c.bad(at+".secret", "a secret is a string")
		}
		if f.Param != "" {
			if !paramName.MatchString(f.Param) {
				c.bad(at+".param", "want a name of letters and digits")
			}
			for _, p := range f.params() {
				if params[p] {
					c.bad(at+".param", "parameter %q is taken from two places", p)
				}
				params[p] = true
			}
		}
		switch {
		case f.Type == "", f.Type == TypeString:
		case f.Type == TypeFile && in != BodyMultipart:
			c.bad(at+".type", "only a multipart body has files")
		case f.Type == TypeJSON && in != inArguments:
			c.bad(at+".type", "only an argument of a tool is of type json")
		case f.Type != TypeFile && in != BodyJSON && in != BodyGraphQL && in != inArguments:
			c.bad(at+".type", "only JSON values and GraphQL arguments have a type")
		}
	}
}
