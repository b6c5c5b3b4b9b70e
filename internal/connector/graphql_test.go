package connector

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/sallyport-dev/sallyport/internal/action"
)

var graphOperations = []Operation{
	{Name: "app.mfa.reset", Method: "POST", Path: "/graphql", Effect: action.Privileged,
		Body: &Body{Type: BodyGraphQL, GraphQL: &GraphQL{Type: GraphQLMutation, Root: []string{"resetMfa"}},
			Fields: map[string]Field{"input.user": {Param: "user"}, "input.days": {Param: "days", Type: TypeInteger, Optional: true},
				"input.how": {Const: text("SMS"), Optional: true}, "input.clientMutationId": {Ignored: true, Optional: true}}}},
	{Name: "app.user.delete", Method: "POST", Path: "/graphql", Effect: action.Irreversible,
		Body: &Body{Type: BodyGraphQL, GraphQL: &GraphQL{Type: GraphQLMutation, Name: "Del", Root: []string{"deleteUser"}}, Fields: map[string]Field{"id": {Param: "id"}}}},
	{Name: "app.desk", Method: "POST", Path: "/graphql", Effect: action.Read,
		Body: &Body{Type: BodyGraphQL, GraphQL: &GraphQL{Type: GraphQLQuery, Root: []string{"user", "viewer", "__typename"}}, Fields: map[string]Field{"user.id": {Param: "id", Optional: true}}}},
	{Name: "app.viewer", Method: "GET", Path: "/graphql", Effect: action.Read,
		Body: &Body{Type: BodyGraphQL, GraphQL: &GraphQL{Type: GraphQLQuery, Root: []string{"viewer"}}}},
}

// envelope is a POST body.
func envelope(document string, more ...string) string {
	q, _ := json.Marshal(document)
	return `{"query":` + string(q) + strings.Join(append([]string{""}, more...), ",") + `}`
}

func TestGraphQL(t *testing.T) {
	recognize := recognizer(t, graphOperations...)
	const json, plain = "application/json", "application/graphql"
	reset := func(user string) map[string]string { return map[string]string{"user": user} }
	for name, tc := range map[string]struct {
		method, target, typ, body, op string
		params                        map[string]string
	}{
		"literal":        {"POST", "/graphql", json, envelope(`mutation { resetMfa(input: {user: "jo"}) { ok } }`), "app.mfa.reset", reset("jo")},
		"variable":       {"POST", "/graphql", json, envelope(`mutation R($u: ID!) { resetMfa(input: {user: $u}) { ok } }`, `"variables":{"u":"jo"}`), "app.mfa.reset", reset("jo")},
		"whole_variable": {"POST", "/graphql", json, envelope(`mutation R($i: In!) { resetMfa(input: $i) { ok } }`, `"variables":{"i":{"user":"jo","days":3,"how":"SMS"}}`), "app.mfa.reset", map[string]string{"user": "jo", "days": "3"}},
		"default":        {"POST", "/graphql", json, envelope(`mutation R($u: ID! = "ana") { resetMfa(input: {user: $u}) { ok } }`), "app.mfa.reset", reset("ana")},
		"absent_member":  {"POST", "/graphql", json, envelope(`mutation R($d: Int) { resetMfa(input: {user: "jo", days: $d}) { ok } }`), "app.mfa.reset", reset("jo")},
		"enum":           {"POST", "/graphql", json, envelope(`mutation { resetMfa(input: {user: "jo", how: SMS}) { ok } }`), "app.mfa.reset", reset("jo")},
		"alias":          {"POST", "/graphql", json, envelope(`mutation { viewer: resetMfa(input: {user: "jo"}) { ok } }`), "app.mfa.reset", reset("jo")},
		"fragment":       {"POST", "/graphql", json, envelope(`mutation { ...A } fragment A on Mutation { ... on Mutation { resetMfa(input: {user: "jo"}) { ok } } }`), "app.mfa.reset", reset("jo")},
		"escapes":        {"POST", "/graphql", json, envelope(`mutation { resetMfa(input: {user: "j\u00f6\ud83d\ude00\n"}) { ok } }`), "app.mfa.reset", reset("jö😀\n")},
		"chosen":         {"POST", "/graphql", json, envelope(`query Q { viewer { id } } mutation Del($id: ID!) { deleteUser(id: $id) }`, `"operationName":"Del"`, `"variables":{"id":"7"}`), "app.user.delete", map[string]string{"id": "7"}},
		"chosen_other":   {"POST", "/graphql", json, envelope(`query Q { viewer { id } } mutation Del { deleteUser(id: "1") }`, `"operationName":"Q"`), "app.desk", map[string]string{}},
		"two_reads":      {"POST", "/graphql", json, envelope(`{ viewer { id } u: user(id: "1") { n @include(if: true) } }`, `"extensions":{}`, `"operationName":null`, `"variables":null`), "app.desk", map[string]string{"id": "1"}},
		"plain":          {"POST", "/graphql", plain, `mutation Del { deleteUser(id: "1") }`, "app.user.delete", map[string]string{"id": "1"}},
		"get":            {"GET", "/graphql?query=%7Bviewer%7Bid%7D%7D&variables=%7B%7D", "", "", "app.viewer", map[string]string{}},
	} {
		t.Run(name, func(t *testing.T) {
			if m := recognize(tc.method, tc.target, tc.typ, tc.body); m.Operation != tc.op || !maps.Equal(m.Params, tc.params) {
				t.Errorf("got %+v, want %s %v", m, tc.op, tc.params)
			}
		})
	}
}

// TestGraphQLTricks: each hides what is executed, or is executed differently by
// another reader.
//
// Threats: T19 (guardrail)
func TestGraphQLTricks(t *testing.T) {
	recognize := recognizer(t, graphOperations...)
	post := func(document string, more ...string) [4]string {
		return [4]string{"POST", "/graphql", "application/json", envelope(document, more...)}
	}
	const del, desk = `mutation Del { deleteUser(id: "1") }`, `query Q { viewer { id } }`
	for name, tc := range map[string]struct {
		req  [4]string
		code string
	}{
		"two_operations_no_name":   {post(desk + del), "graphql_operation_name"},
		"two_operations_empty":     {post(desk+del, `"operationName":""`), "graphql_operation_name"},
		"two_operations_unknown":   {post(desk+del, `"operationName":"X"`), "graphql_operation_name"},
		"two_operations_anonymous": {post(`{ viewer { id } } `+del, `"operationName":"Del"`), "graphql_operation_name"},
		"two_operations_same_name": {post(`query Del { viewer { id } } `+del, `"operationName":"Del"`), "graphql_operation_name"},
		"name_of_no_operation":     {post(`{ viewer { id } }`, `"operationName":"Del"`), "graphql_operation_name"},
		"other_name":               {post(`mutation Other { deleteUser(id: "1") }`), "graphql_operation"},
		"alias_of_a_read":          {post(`mutation { viewer: wipe { ok } }`), ""},
		"query_named_as_mutation":  {post(`query Del { deleteUser(id: "1") }`), ""},
		"subscription":             {post(`subscription S { viewer { id } }`), "graphql_operation"},
		"two_root_fields":          {post(`mutation Del { deleteUser(id: "1") wipe }`), "graphql_field"},
		"second_in_fragment":       {post(`mutation Del { deleteUser(id: "1") ...W } fragment W on Mutation { wipe }`), "graphql_field"},
		"second_in_inline":         {post(`mutation Del { deleteUser(id: "1") ... { wipe } }`), "graphql_field"},
		"twice_by_alias":           {post(`mutation Del { a: deleteUser(id: "1") b: deleteUser(id: "2") }`), "graphql_field_twice"},
		"twice_by_fragment":        {post(`mutation Del { ...D ...D } fragment D on Mutation { deleteUser(id: "1") }`), "graphql_field_twice"},
		"fragment_undefined":       {post(`mutation Del { deleteUser(id: "1") ...X }`), "graphql_fragment"},
		"fragment_of_itself":       {post(`mutation Del { ...A } fragment A on M { ...B } fragment B on M { ...A }`), "graphql_fragment"},
		"fragment_twice":           {post(`mutation Del { ...A } fragment A on M { deleteUser(id: "1") } fragment A on M { wipe }`), "graphql_syntax"},
		"fragment_bomb":            {post(fragmentBomb()), "too_many_fields"},
		"root_directive":           {post(`mutation Del { deleteUser(id: "1") @include(if: true) }`), "graphql_directive"},
		"root_fragment_directive":  {post(`mutation Del { ...A @skip(if: false) } fragment A on M { deleteUser(id: "1") }`), "graphql_directive"},
		"unknown_directive":        {post(`{ viewer { id @export(as: "x") } }`), "graphql_syntax"},
		"operation_directive":      {post(`mutation Del @live { deleteUser(id: "1") }`), "graphql_syntax"},
		"argument_twice":           {post(`mutation Del { deleteUser(id: "1", id: "2") }`), "graphql_syntax"},
		"member_twice":             {post(`mutation { resetMfa(input: {user: "jo", user: "ana"}) { ok } }`), "graphql_syntax"},
		"variable_twice":           {post(`mutation Del($a: ID, $a: ID) { deleteUser(id: $a) }`, `"variables":{"a":"1"}`), "graphql_syntax"},
		"variable_undeclared":      {post(`mutation Del { deleteUser(id: $a) }`, `"variables":{"a":"1"}`), "graphql_variable"},
		"variable_unknown":         {post(del, `"variables":{"a":"1"}`), "graphql_variable"},
		"variable_case":            {post(`mutation Del($a: ID = "1") { deleteUser(id: $a) }`, `"variables":{"A":"2"}`), "graphql_variable"},
		"variable_in_default":      {post(`mutation Del($b: ID, $a: ID = $b) { deleteUser(id: $a) }`), "graphql_syntax"},
		"list_for_one":             {post(`mutation Del { deleteUser(id: ["1", "2"]) }`), "field_type"},
		"list_by_variable":         {post(`mutation Del($a: [ID!]) { deleteUser(id: $a) }`, `"variables":{"a":["1","2"]}`), "field_type"},
		"null":                     {post(`mutation Del { deleteUser(id: null) }`), "field_type"},
		"number_for_text":          {post(`mutation Del { deleteUser(id: 1) }`), "field_type"},
		"float_for_integer":        {post(`mutation { resetMfa(input: {user: "jo", days: 1e2}) { ok } }`), "field_type"},
		"other_enum":               {post(`mutation { resetMfa(input: {user: "jo", how: MAIL}) { ok } }`), "field_value"},
		"extra_argument":           {post(`mutation Del { deleteUser(id: "1", force: true) }`), "unknown_field"},
		"extra_member":             {post(`mutation { resetMfa(input: {user: "jo", all: true}) { ok } }`), "unknown_field"},
		"dotted_member":            {post(`mutation R($i: In) { resetMfa(input: $i) { ok } }`, `"variables":{"i":{"user":"jo","clientMutationId.x":1}}`), "unknown_field"},
		"missing_argument":         {post(`mutation Del { deleteUser }`), "missing_field"},
		"batch":                    {[4]string{"POST", "/graphql", "application/json", " [" + envelope(del) + "]"}, "graphql_batch"},
		"persisted":                {post(del, `"extensions":{"persistedQuery":{"version":1,"sha256Hash":"00"}}`), "graphql_envelope"},
		"persisted_id":             {post(del, `"id":"x"`), "graphql_envelope"},
		"document_id":              {[4]string{"POST", "/graphql", "application/json", `{"documentId":"x"}`}, "graphql_envelope"},
		"query_not_text":           {[4]string{"POST", "/graphql", "application/json", `{"query":{"a":1}}`}, "graphql_envelope"},
		"variables_text":           {post(del, `"variables":"{}"`), "graphql_envelope"},
		"operation_name_number":    {post(del, `"operationName":1`), "graphql_envelope"},
		"query_null":               {[4]string{"POST", "/graphql", "application/json", `{"query":null}`}, "graphql_envelope"},
		"query_twice":              {[4]string{"POST", "/graphql", "application/json", `{"query":"{viewer{id}}","query":"` + `mutation Del { wipe }"}`}, "json"},
		"query_case":               {[4]string{"POST", "/graphql", "application/json", `{"Query":"{viewer{id}}"}`}, "graphql_envelope"},
		"query_in_url_too":         {[4]string{"POST", "/graphql?query=%7Bwipe%7D", "application/json", envelope(desk)}, ""},
		"form":                     {[4]string{"POST", "/graphql", "application/x-www-form-urlencoded", "query=%7Bviewer%7D"}, "content_type"},
		"multipart":                {[4]string{"POST", "/graphql", "multipart/form-data; boundary=b", "--b--"}, "content_type"},
		"text_plain":               {[4]string{"POST", "/graphql", "text/plain", envelope(desk)}, "content_type"},
		"json_suffix":              {[4]string{"POST", "/graphql", "application/graphql+json", envelope(desk)}, "content_type"},
		"charset":                  {[4]string{"POST", "/graphql", "application/json; charset=utf-16", envelope(desk)}, "charset"},
		"get_mutation":             {[4]string{"GET", "/graphql?query=mutation%7Bviewer%7D", "", ""}, "graphql_operation"},
		"get_other_field":          {[4]string{"GET", "/graphql?query=%7Bwipe%7D", "", ""}, "graphql_field"},
		"get_extra":                {[4]string{"GET", "/graphql?query=%7Bviewer%7D&x=1", "", ""}, "graphql_envelope"},
		"get_query_twice":          {[4]string{"GET", "/graphql?query=%7Bviewer%7D&query=mutation%7Bwipe%7D", "", ""}, "duplicate_field"},
		"get_body":                 {[4]string{"GET", "/graphql?query=%7Bviewer%7D", "application/json", envelope(del)}, "unexpected_body"},
		"get_nothing":              {[4]string{"GET", "/graphql", "", ""}, "graphql_syntax"},
		"head":                     {[4]string{"HEAD", "/graphql?query=%7Bviewer%7D", "", ""}, ""},
		"put":                      {[4]string{"PUT", "/graphql", "application/json", envelope(desk)}, "no_operation"},
		"comment":                  {post("mutation Del { deleteUser(id: \"1\") } # \u2028 wipe"), "graphql_syntax"},
		"block_string":             {post(`mutation Del { deleteUser(id: """1""") }`), "graphql_syntax"},
		"bom":                      {post("\ufeff" + del), "graphql_syntax"},
		"no_break_space":           {post("mutation\u00a0Del { deleteUser(id: \"1\") }"), "graphql_syntax"},
		"string_newline":           {post("mutation Del { deleteUser(id: \"1\n\") }"), "graphql_syntax"},
		"string_open":              {post(`mutation Del { deleteUser(id: "1) }`), "graphql_syntax"},
		"string_bad_escape":        {post(`mutation Del { deleteUser(id: "\x31") }`), "graphql_syntax"},
		"string_nul":               {post(`mutation Del { deleteUser(id: "1\u0000") }`), "graphql_syntax"},
		"string_lone_surrogate":    {post(`mutation Del { deleteUser(id: "\ud800") }`), "graphql_syntax"},
		"string_braced_escape":     {post(`mutation Del { deleteUser(id: "\u{31}") }`), "graphql_syntax"},
		"string_signed_escape":     {post(`mutation Del { deleteUser(id: "\u+031") }`), "graphql_syntax"},
		"number_runs_on":           {post(`mutation { resetMfa(input: {user: "jo", days: 1x}) { ok } }`), "graphql_syntax"},
		"number_leading_zero":      {post(`mutation { resetMfa(input: {user: "jo", days: 01}) { ok } }`), "graphql_syntax"},
		"empty_selection":          {post(`mutation Del { }`), "graphql_syntax"},
		"empty_arguments":          {post(`mutation Del { deleteUser() }`), "graphql_syntax"},
		"not_closed":               {post(`mutation Del { deleteUser(id: "1")`), "graphql_syntax"},
		"trailing":                 {post(del + ` }`), "graphql_syntax"},
		"schema":                   {post(del + ` extend type Query { a: Int }`), "graphql_syntax"},
		"fragment_only":            {post(`fragment A on M { deleteUser(id: "1") }`), "graphql_syntax"},
		"fragment_named_on":        {post(`mutation Del { ...on } fragment on on M { wipe }`), "graphql_syntax"},
		"deep":                     {post(strings.Repeat("{a", 100) + strings.Repeat("}", 100)), "graphql_syntax"},
		"deep_value":               {post(`{ viewer(a: ` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `) }`), "graphql_syntax"},
		"deep_type":                {post(`query Q($a: ` + strings.Repeat("[", 100) + `A` + strings.Repeat("]", 100) + `) { viewer }`), "graphql_syntax"},
		"many_tokens":              {post("{" + strings.Repeat("a ", maxTokens+1) + "}"), "graphql_syntax"},
		"argument_bomb":            {post(argumentBomb()), "too_many_fields"},
	} {
		t.Run(name, func(t *testing.T) {
			m := recognize(tc.req[0], tc.req[1], tc.req[2], tc.req[3])
			// The reason given is that of the last operation that came close.
			if m.Matched || m.Operation != Unmatched || m.Effect != action.Write || m.Code == "" || m.Params != nil {
				t.Errorf("got %+v, want an unmatched write", m)
			}
			if tc.code != "" && m.Code != tc.code && !slices.Contains(graphCodes(tc.req), tc.code) {
				t.Errorf("got codes %v, want %s", graphCodes(tc.req), tc.code)
			}
		})
	}
}

// graphCodes are the reasons of all operations.
func graphCodes(req [4]string) []string {
	path, query, _ := strings.Cut(req[1], "?")
	var codes []string
	for _, op := range graphOperations {
		c := compiled{Operation: op}
		if op.Method != req[0] || path != op.Path {
			continue
		}
		t := taken{params: map[string]string{}}
		if ref := c.fields(&t, action.Request{Method: req[0], Query: query, BodyType: req[2]}, []byte(req[3])); ref != nil {
			codes = append(codes, ref.code)
		}
	}
	return codes
}

func fragmentBomb() string {
	b := "mutation Del { ...F0 }"
	for i := range 40 {
		b += fmt.Sprintf(" fragment F%d on M { ...F%d ...F%d }", i, i+1, i+1)
	}
	return b + ` fragment F40 on M { deleteUser(id: "1") }`
}

func argumentBomb() string {
	var b strings.Builder
	for i := range maxFields + 1 {
		fmt.Fprintf(&b, "a%d: 1 ", i)
	}
	return `mutation Del { deleteUser(` + b.String() + `) }`
}

// print writes a document in one plain form, aliases left out.
func (d graphDocument) print() string {
	var b strings.Builder
	var value func(graphValue)
	members := func(open string, ms []graphMember, end string) {
		if ms == nil && open == "(" {
			return
		}
		b.WriteString(open)
		for _, m := range ms {
			b.WriteString(m.name + ": ")
			value(m.value)
			b.WriteString(" ")
		}
		b.WriteString(end)
	}
	value = func(v graphValue) {
		switch v.kind {
		case '$':
			b.WriteString("$" + v.text)
		case '[':
			b.WriteString("[")
			for _, e := range v.list {
				value(e)
				b.WriteString(" ")
			}
			b.WriteString("]")
		case '{':
			members("{", v.members, "}")
		case tokenString:
			s, _ := json.Marshal(v.text)
			b.Write(s)
		default:
			b.WriteString(v.text)
		}
	}
	var selected func([]graphSelection)
	selected = func(all []graphSelection) {
		b.WriteString("{ ")
		for _, s := range all {
			if s.field == "" {
				b.WriteString("..." + s.spread)
			} else {
				b.WriteString(s.field)
				members("(", s.arguments, ")")
			}
			if s.directives {
				b.WriteString(" @skip(if: $x)")
			}
			if s.selected != nil {
				selected(s.selected)
			}
			b.WriteString(" ")
		}
		b.WriteString("}")
	}
	for _, op := range d.operations {
		b.WriteString(op.kind + " " + op.name)
		if op.variables != nil {
			b.WriteString("(")
			for _, v := range op.variables {
				b.WriteString("$" + v.name + ": T")
				if v.value != nil {
					b.WriteString(" = ")
					value(*v.value)
				}
				b.WriteString(" ")
			}
			b.WriteString(")")
		}
		selected(op.selected)
	}
	for _, name := range slices.Sorted(maps.Keys(d.fragments)) {
		b.WriteString(" fragment " + name + " on T ")
		selected(d.fragments[name])
	}
	return b.String()
}

// FuzzGraphQL: what is read, written plainly and read again is the same, and
// no root field or argument comes out that is not in the text.
func FuzzGraphQL(f *testing.F) {
	f.Add(`mutation R($u: [ID!]! = ["a"], $v: T) { a: resetMfa(input: {user: $u, n: [1, -2.5e3, null, E, true]}) { ok ...F } } fragment F on T { b @skip(if: true) ... on U { c } }`, "")
	f.Add(`query A { b } query C { d(e: "\u00e4\"") }`, "C")
	f.Fuzz(func(t *testing.T, document, name string) {
		doc, ok := parseGraphQL(document)
		if !ok {
			return
		}
		again, ok := parseGraphQL(doc.print())
		if !ok || !reflect.DeepEqual(doc, again) {
			t.Fatalf("%q\nis read as   %+v\nand again as %+v", document, doc, again)
		}
		op, ref := doc.choose(name)
		if ref != nil {
			return
		}
		roots, ref := doc.roots(op)
		if ref != nil {
			return
		}
		if len(roots) == 0 {
			t.Fatalf("%q executes nothing", document)
		}
		for _, r := range roots {
			if !strings.Contains(document, r.field) {
				t.Fatalf("%q: root field %q", document, r.field)
			}
		}
	})
}

// TestGraphQLSpelling: white space, commas, aliases and fragments change nothing
// of what is recognised.
func TestGraphQLSpelling(t *testing.T) {
	recognize := recognizer(t, graphOperations...)
	rapid.Check(t, func(t *rapid.T) {
		space := rapid.StringMatching(`[ ,\t\n\r]{1,3}`)
		id := rapid.StringMatching(`[^\x00-\x1f\x7f]{0,12}`).Draw(t, "id")
		lit, _ := json.Marshal(id)
		field := `deleteUser(id` + space.Draw(t, "a") + `:` + string(lit) + `)`
		if rapid.Bool().Draw(t, "alias") {
			field = rapid.StringMatching(`[A-Za-z_]{1,5}`).Draw(t, "name") + space.Draw(t, "b") + ":" + field
		}
		tail := ""
		if rapid.Bool().Draw(t, "fragment") {
			field, tail = "...X", " fragment X on M {"+field+space.Draw(t, "c")+"}"
		}
		doc := "mutation Del" + space.Draw(t, "d") + "{" + field + space.Draw(t, "e") + "}" + tail
		if m := recognize("POST", "/graphql", "application/json", envelope(doc)); m.Operation != "app.user.delete" || m.Params["id"] != id {
			t.Fatalf("%s: got %+v", doc, m)
		}
	})
}

func TestGraphQLSpecErrors(t *testing.T) {
	op := func(change func(*Operation)) []Operation {
		o := Operation{Name: "app.x", Method: "POST", Path: "/graphql", Effect: action.Write,
			Body: &Body{Type: BodyGraphQL, GraphQL: &GraphQL{Type: GraphQLMutation, Root: []string{"wipe"}}}}
		change(&o)
		return append(slices.Clone(graphOperations), o)
	}
	for name, tc := range map[string]struct {
		ops  []Operation
		want string
	}{
		"fine":             {op(func(*Operation) {}), ""},
		"nothing_said":     {op(func(o *Operation) { o.Body.GraphQL = nil }), "which operation it is"},
		"said_of_json":     {op(func(o *Operation) { o.Path, o.Body.Type = "/x", BodyJSON }), "which operation it is"},
		"no_root":          {op(func(o *Operation) { o.Body.GraphQL.Root = nil }), "want the fields"},
		"mutation_of_two":  {op(func(o *Operation) { o.Body.GraphQL.Root = []string{"a", "b"} }), "want the fields"},
		"root_twice":       {op(func(o *Operation) { o.Body.GraphQL.Type, o.Body.GraphQL.Root = GraphQLQuery, []string{"a", "a"} }), "once"},
		"root_syntax":      {op(func(o *Operation) { o.Body.GraphQL.Root = []string{"a.b"} }), "name of a field"},
		"name_syntax":      {op(func(o *Operation) { o.Body.GraphQL.Name = "a b" }), "GraphQL name"},
		"unknown_type":     {op(func(o *Operation) { o.Body.GraphQL.Type = "subscription" }), "query or mutation"},
		"get_mutation":     {op(func(o *Operation) { o.Method = "GET" }), "a GET is a query"},
		"put":              {op(func(o *Operation) { o.Method = "PUT" }), "GET or a POST"},
		"overlap":          {op(func(o *Operation) { o.Body.GraphQL.Root = []string{"resetMfa"} }), ""},
		"overlap_any_name": {op(func(o *Operation) { o.Body.GraphQL.Root = []string{"deleteUser"}; o.Body.AllowExtra = true }), "could be both"},
		"overlap_json":     {op(func(o *Operation) { o.Body = &Body{Type: BodyJSON, AllowExtra: true} }), "could be both"},
		"json_media":       {op(func(o *Operation) { o.Path, o.Body = "/x", &Body{Type: BodyJSON, Media: "application/json; a=b"} }), "media type"},
		"form_media":       {op(func(o *Operation) { o.Path, o.Body = "/x", &Body{Type: BodyForm, Media: "application/a+json"} }), "media type"},
		"file_in_form": {op(func(o *Operation) {
			o.Path, o.Body = "/x", &Body{Type: BodyForm, Fields: map[string]Field{"a": {Param: "a", Type: TypeFile}}}
		}), "only a multipart body"},
		"integer_in_multipart": {op(func(o *Operation) {
			o.Path, o.Body = "/x", &Body{Type: BodyMultipart, Fields: map[string]Field{"a": {Param: "a", Type: TypeInteger}}}
		}), "only JSON values"},
		"file_parameter_twice": {op(func(o *Operation) {
			o.Path, o.Body = "/x/{aName}", &Body{Type: BodyMultipart, Fields: map[string]Field{"a": {Param: "a", Type: TypeFile}}}
		}), "two places"},
	} {
		_, err := NewSet(map[string]*Spec{"app": {
			Stages: map[action.Stage]Stage{action.Sandbox: {Origins: []Origin{{Name: "main", URL: "https://app.example"}}}}, Operations: tc.ops}})
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: got %v, want %q", name, err, tc.want)
		}
	}
}

// TestJSONMedia: a "+json" type is read when the operation names it, and only then.
func TestJSONMedia(t *testing.T) {
	recognize := recognizer(t, Operation{Name: "app.user.add", Method: "POST", Path: "/Users", Effect: action.Write,
		Body: &Body{Type: BodyJSON, Media: "application/scim+json", AllowExtra: true, Fields: map[string]Field{"userName": {Param: "user"}}}})
	for typ, want := range map[string]string{"application/scim+json": "", "Application/SCIM+JSON; charset=utf-8": "", "application/json": "content_type",
		"application/vnd.api+json": "content_type", "application/scim+json; profile=x": "charset", "application/scim+json, text/plain": "content_type", "": "content_type"} {
		if m := recognize("POST", "/Users", typ, `{"userName":"jo","name":{"given":"Jo"}}`); m.Code != want {
			t.Errorf("%q: got %+v, want %q", typ, m, want)
		}
	}
	for _, body := range []string{`{"userName":"jo","username":"ana"}`, `{"userName":"jo","UserName":"ana"}`, `{"userName":"jo","userName[]":"ana"}`,
		`{"userName":"jo","userName\u0000":"ana"}`, `{"userName":"jo","user\u004eame":"ana"}`} {
		if m := recognize("POST", "/Users", "application/scim+json", body); m.Matched || m.Code != "similar_field" && m.Code != "json" {
			t.Errorf("%s: got %+v", body, m)
		}
	}
}

// TestDeclaredOverride is told to the door, which refuses every other.
func TestDeclaredOverride(t *testing.T) {
	recognize := recognizer(t, Operation{Name: "app.user.delete", Method: "POST", Path: "/users/{id}", Effect: action.Irreversible,
		Body: &Body{Type: BodyForm, Fields: map[string]Field{"_method": {Const: text("delete")}}}})
	if m := recognize("POST", "/users/1", "application/x-www-form-urlencoded", "_method=delete"); m.Override != "delete" || !m.Matched {
		t.Errorf("got %+v", m)
	}
	if m := recognize("POST", "/users/1", "application/x-www-form-urlencoded", "_method=put"); m.Matched || m.Override != "" {
		t.Errorf("got %+v", m)
	}
}
