// Package connector describes governed applications and recovers the business
// operation from a request.
//
// Invariants:
//   - Unknown means no: a request that is not exactly what one operation
//     describes is unmatched, with a reason. Extra fields, doubled names, a
//     second spelling of a path, a method override: none of it is guessed at.
//   - An origin belongs to at most one connector and one stage of a tenant.
//   - Recognition is on the bytes that will be sent: a body that does not carry
//     the request's digest is an error.
//   - Two operations never match one request: overlap is an error in the
//     specification, and what could not be seen there is unmatched.
//
// Not trusted: the request. Everything in it may come from a page.
package connector

import (
	"fmt"

	"github.com/sallyport-dev/sallyport/internal/action"
)

// Spec is the body of a resource of kind Connector. Fields without omitempty
// must be given.
type Spec struct {
	Description string `json:"description,omitempty"`
	// Stages says where the application lives. A stage that is not named cannot
	// be reached.
	Stages map[action.Stage]Stage `json:"stages"`
	SignIn *SignIn                `json:"signIn,omitempty"`
	// BrokeredCookies are the cookies that the boundary keeps to itself: they
	// are put in at door 2 and never reach the browser. "*" means all.
	BrokeredCookies []string `json:"brokeredCookies,omitempty"`
	// Reads says what becomes of a GET or HEAD that no operation describes.
	Reads ReadsDefault `json:"reads,omitempty"`
	// Assets are path prefixes ending in "/" under which a GET is a plain asset.
	Assets []string `json:"assets,omitempty"`
	// Fold names the parameters that the application takes for the same in any
	// case, as most do with e-mail addresses and user names. They are decided in
	// lower case, and sent as they came; see Fold. Others are compared exactly.
	Fold []string `json:"fold,omitempty"`
	// Numbers names the parameters that the application reads as whole numbers,
	// as most do with ids. Only the plain spelling is recognised: "07", "+7",
	// "7.json" and "7 " are 7 to somebody.
	Numbers []string `json:"numbers,omitempty"`
	// MCP is where the application's tools are called; see kind tool.
	MCP *MCP `json:"mcp,omitempty"`
	// Takes are the credentials that the boundary puts into requests.
	Takes      []Take      `json:"takes,omitempty"`
	Operations []Operation `json:"operations,omitempty"`
	// Audit is the application's own audit log, which is held against the records.
	Audit *Audit `json:"audit,omitempty"`
	// DeclaredRoles are roles that people have in the application.
	DeclaredRoles []DeclaredRole `json:"declaredRoles,omitempty"`
}

// ReadsDefault is allow or deny; the zero value is deny.
type ReadsDefault string

// The defaults for reads.
const (
	ReadsAllow ReadsDefault = "allow" // recognised as <connector>.read
	ReadsDeny  ReadsDefault = "deny"  // unmatched
)

// Values lists what may be written.
func (ReadsDefault) Values() []string { return []string{string(ReadsAllow), string(ReadsDeny)} }

// Stage is one copy of the application.
type Stage struct {
	Origins []Origin `json:"origins"`
}

// Origin is one scheme, host and port.
type Origin struct {
	// Name is how operations refer to it; the same names in every stage.
	Name string `json:"name"`
	URL  string `json:"url"` // scheme://host[:port], nothing else
	// CA is PEM of the only roots trusted for it; CAFile is a path that the
	// client resolves into CA. Neither means the machine's roots.
	CA     string `json:"ca,omitempty"`
	CAFile string `json:"caFile,omitempty"`
	// Local lets the name resolve to a loopback or private address.
	Local bool `json:"local,omitempty"`
}

// SignIn is how the boundary signs in by a form, and how it finds and ends the
// session afterwards.
type SignIn struct {
	Origin string `json:"origin"` // name
	// Login posts the form found at Path back to Path.
	Login Login `json:"login"`
	// Logout ends the session that asks, by POST.
	Logout Logout `json:"logout"`
	// Confirm answers Status to a dead session and something else to a live one.
	Confirm Confirm `json:"confirm"`
	// Sessions lists the account's sessions, so that one can be found by the
	// User-Agent label and ended.
	Sessions *Sessions `json:"sessions,omitempty"`
}

// Login is a sign-in form.
type Login struct {
	Path     string `json:"path"`
	Username string `json:"username"` // field name
	Password string `json:"password"` // field name
	CSRF     string `json:"csrf,omitempty"`
	// TOTP is where a one-time code goes.
	TOTP *Code `json:"totp,omitempty"`
	// Success is the status that a right password is answered with.
	Success int `json:"success,omitempty"`
}

// Code is the field for a one-time code (RFC 6238): of the sign-in form, or, with
// Path, of a form of its own there, after a right password.
type Code struct {
	Field string `json:"field"`
	Path  string `json:"path,omitempty"`
}

// Logout is the request that ends a session.
type Logout struct {
	Path string `json:"path"`
	CSRF string `json:"csrf,omitempty"` // field name, when the application asks for one
}

// Confirm is the request that tells a live session from a dead one.
type Confirm struct {
	Path   string `json:"path"`
	Status int    `json:"status"`
}

// Sessions says where the sessions of an account are listed and ended.
type Sessions struct {
	List   string `json:"list"`   // JSON array of objects with id and userAgent
	Revoke string `json:"revoke"` // POST; {id} stands for the session
}

// Kind of an operation.
type Kind string

// The kinds; the zero value is KindRequest.
const (
	KindRequest   Kind = "request"
	KindWebSocket Kind = "websocket" // the handshake
	KindTool      Kind = "tool"      // a call of a tool of the MCP server
)

// Values lists what may be written.
func (Kind) Values() []string {
	return []string{string(KindRequest), string(KindWebSocket), string(KindTool)}
}

// Operation is one business effect and a request that has it. Two requests with
// the same effect have the same name.
type Operation struct {
	// Name is <connector>.thing.verb.
	Name        string  `json:"name"`
	Description string  `json:"description,omitempty"`
	Kind        Kind    `json:"kind,omitempty"`
	Origin      string  `json:"origin,omitempty"` // name; may be left out when there is one
	Method      string  `json:"method,omitempty"`
	Path        string  `json:"path,omitempty"` // "/users/{user}/reset": a parameter is one whole segment
	Query       *Fields `json:"query,omitempty"`
	Body        *Body   `json:"body,omitempty"`
	// Of kind tool, instead of all these: the tool, and all arguments that it may be
	// called with.
	Tool       string           `json:"tool,omitempty"`
	Arguments  map[string]Field `json:"arguments,omitempty"`
	Effect     action.Effect    `json:"effect"`
	Labels     []string         `json:"labels,omitempty"`
	Reversible bool             `json:"reversible,omitempty"`
	ReadBack   *ReadBack        `json:"readBack,omitempty"`
}

// BodyType is how a body is read.
type BodyType string

// The body types.
const (
	BodyForm      BodyType = "form"      // application/x-www-form-urlencoded
	BodyMultipart BodyType = "multipart" // multipart/form-data (RFC 7578)
	BodyJSON      BodyType = "json"      // one object
	BodyGraphQL   BodyType = "graphql"   // one GraphQL request; that of a GET is its query
	BodyNone      BodyType = "none"
)

// Values lists what may be written.
func (BodyType) Values() []string {
	return []string{string(BodyForm), string(BodyMultipart), string(BodyJSON), string(BodyGraphQL), string(BodyNone)}
}

// Body is what a request must carry.
type Body struct {
	Type BodyType `json:"type"`
	// Media is the one media type of a json body, ending in "+json"; it is
	// application/json when left out.
	Media   string   `json:"media,omitempty"`
	GraphQL *GraphQL `json:"graphql,omitempty"` // of a graphql body, and of no other
	// Fields of a graphql body are the arguments of its root field, with the
	// variables put in: "id", and "input.id" for a member of an input object.
	// When there are several root fields each name begins with "field.".
	Fields     map[string]Field `json:"fields,omitempty"`
	AllowExtra bool             `json:"allowExtra,omitempty"` // other fields may be present
}

// GraphQL says which GraphQL operation a request executes. What the document
// calls things by aliases and fragments does not count.
type GraphQL struct {
	Type GraphQLType `json:"type"`
	Name string      `json:"name,omitempty"` // the operation's name in the document; any when left out
	// Root are the fields of the root type: a request selects one or more of
	// them, each once, and no others. A mutation has one.
	Root []string `json:"root"`
}

// GraphQLType is the kind of a GraphQL operation. Subscriptions are not read.
type GraphQLType string

// The types.
const (
	GraphQLQuery    GraphQLType = "query"
	GraphQLMutation GraphQLType = "mutation"
)

// Values lists what may be written.
func (GraphQLType) Values() []string {
	return []string{string(GraphQLQuery), string(GraphQLMutation)}
}

// Fields are query parameters.
type Fields struct {
	Fields     map[string]Field `json:"fields,omitempty"`
	AllowExtra bool             `json:"allowExtra,omitempty"`
}

// Field says what one field is: exactly one of Param, Const, Ignored, Secret.
type Field struct {
	Param   string  `json:"param,omitempty"`   // becomes a parameter of the operation
	Const   *string `json:"const,omitempty"`   // must be exactly this
	Ignored bool    `json:"ignored,omitempty"` // may be anything: an anti-forgery token
	// Secret is the CredentialSource whose secret door 2 puts in; the field must
	// hold its Placeholder. Only fields of a body can: addresses are logged.
	Secret string `json:"secret,omitempty"`
	// Optional lets the field be absent. A parameter is then absent as well.
	Optional bool `json:"optional,omitempty"`
	// Type of the value; the zero value is string. A form has strings only.
	Type FieldType `json:"type,omitempty"`
}

// FieldType is the type of a field's value.
type FieldType string

// The field types.
const (
	TypeString  FieldType = "string"
	TypeInteger FieldType = "integer" // within ±2^53
	TypeBoolean FieldType = "boolean"
	// TypeFile is a file of a multipart body. Its value is the digest of its
	// bytes; a Param p comes with pName, pSize in bytes, and pType, the media
	// type that the sender says.
	TypeFile FieldType = "file"
	// TypeJSON is any value of a tool's argument; its Param is the canonical JSON.
	TypeJSON FieldType = "json"
)

// Values lists what may be written.
func (FieldType) Values() []string {
	return []string{string(TypeString), string(TypeInteger), string(TypeBoolean), string(TypeFile), string(TypeJSON)}
}

// params are the parameters that the field gives.
func (f Field) params() []string {
	switch {
	case f.Param == "":
		return nil
	case f.Type == TypeFile:
		return []string{f.Param, f.Param + "Name", f.Param + "Size", f.Param + "Type"}
	}
	return []string{f.Param}
}

// ReadBack is the GET that shows whether the operation took effect, and what
// must be true of its answer: exactly one of Equals, Changed, Newer.
type ReadBack struct {
	Origin  string  `json:"origin,omitempty"` // name; the operation's own by default
	Path    string  `json:"path"`             // with the operation's parameters
	Pointer string  `json:"pointer"`          // RFC 6901
	Equals  *string `json:"equals,omitempty"` // the value is this string
	Changed bool    `json:"changed,omitempty"`
	Newer   bool    `json:"newer,omitempty"` // an RFC 3339 time, not before the dispatch
}

// Resolve puts the content of CAFile into CA.
func (s *Spec) Resolve(read func(path string) ([]byte, error)) error {
	for name, st := range s.Stages {
		for i := range st.Origins {
			o := &st.Origins[i]
			if o.CAFile == "" {
				continue
			}
			b, err := read(o.CAFile)
			if err != nil {
				return fmt.Errorf("stages.%s.origins[%d].caFile: %w", name, i, err)
			}
			o.CA, o.CAFile = string(b), ""
		}
	}
	return nil
}
