package connector

// graphDocument is an executable document (section 2.2): operations and
// fragments, and nothing of the type system language.
type graphDocument struct {
	operations []graphOperation
	fragments  map[string][]graphSelection
}

type graphOperation struct {
	kind      string // query, mutation or subscription
	name      string // "" if anonymous
	variables []graphVariable
	selected  []graphSelection
}

type graphVariable struct {
	name  string
	value *graphValue // by default, or nil
}

// graphSelection is a field, a spread of a fragment, or an inline fragment.
type graphSelection struct {
	field, spread string // both empty: inline
	arguments     []graphMember
	directives    bool
	selected      []graphSelection
}

type graphMember struct {
	name  string
	value graphValue
}

// graphValue is a literal or a variable.
type graphValue struct {
	kind    byte // '$', a kind of token (a name is an enum value, true, false or null), '[' or '{'
	text    string
	list    []graphValue
	members []graphMember
}

// graphParser reads tokens. After bad is set it moves no more.
type graphParser struct {
	tokens []token
	bad    bool
	depth  int
}

func parseGraphQL(src string) (graphDocument, bool) {
	tokens, ok := lexGraphQL(src)
	if !ok {
		return graphDocument{}, false
	}
	p := &graphParser{tokens: tokens}
	doc := graphDocument{fragments: map[string][]graphSelection{}}
	for !p.bad && p.tokens[0].kind != tokenEnd {
		if p.tokens[0] == (token{tokenName, "fragment"}) {
			p.next()
			name := p.name()
			_, twice := doc.fragments[name]
			if on := p.name(); on != "on" || name == "on" || twice {
				p.bad = true
			}
			p.name()
			doc.fragments[name] = p.selections()
			continue
		}
		doc.operations = append(doc.operations, p.operation())
	}
	return doc, !p.bad && len(doc.operations) > 0
}

func (p *graphParser) next() token {
	t := p.tokens[0]
	if p.bad || t.kind == tokenEnd {
		p.bad = true
		return token{}
	}
	p.tokens = p.tokens[1:]
	return t
}

func (p *graphParser) is(kind byte) bool { return !p.bad && p.tokens[0].kind == kind }

// take moves on if the next token is of the kind.
func (p *graphParser) take(kind byte) bool {
	if p.is(kind) {
		p.next()
		return true
	}
	return false
}

func (p *graphParser) want(kind byte) string {
	if !p.is(kind) {
		p.bad = true
	}
	return p.next().text
}

func (p *graphParser) name() string { return p.want(tokenName) }

// deeper bounds recursion; every call needs a call of the function it returns.
func (p *graphParser) deeper() func() {
	if p.depth++; p.depth > maxNesting {
		p.bad = true
	}
	return func() { p.depth-- }
}

func (p *graphParser) operation() graphOperation {
	op := graphOperation{kind: "query"}
	if p.is('{') {
		op.selected = p.selections()
		return op
	}
	op.kind = p.name()
	if op.kind != "query" && op.kind != "mutation" && op.kind != "subscription" {
		p.bad = true
	}
	if p.is(tokenName) {
		op.name = p.name()
	}
	if p.take('(') {
		for !p.take(')') && !p.bad {
			op.variables = append(op.variables, p.variable(op.variables))
		}
		p.bad = p.bad || len(op.variables) == 0
	}
	op.selected = p.selections() // directives on an operation are refused here
	return op
}

func (p *graphParser) variable(before []graphVariable) graphVariable {
	p.want('$')
	v := graphVariable{name: p.name()}
	for _, b := range before {
		p.bad = p.bad || b.name == v.name
	}
	p.want(':')
	p.typeReference()
	if p.take('=') {
		value := p.value(true)
		v.value = &value
	}
	return v
}

func (p *graphParser) typeReference() {
	defer p.deeper()()
	if p.bad {
		return
	}
	if p.take('[') {
		p.typeReference()
		p.want(']')
	} else {
		p.name()
	}
	p.take('!')
}

func (p *graphParser) selections() []graphSelection {
	defer p.deeper()()
	p.want('{')
	var out []graphSelection
	for !p.bad && !p.take('}') {
		out = append(out, p.selection())
	}
	p.bad = p.bad || len(out) == 0
	return out
}

func (p *graphParser) selection() graphSelection {
	var s graphSelection
	if p.take('.') {
		switch {
		case p.is(tokenName) && p.tokens[0].text != "on":
			s.spread = p.name()
			s.directives = p.directives()
			return s
		case p.is(tokenName):
			p.next()
			p.name()
		}
		s.directives = p.directives()
		s.selected = p.selections()
		return s
	}
	s.field = p.name()
	if p.take(':') { // what came was an alias
		s.field = p.name()
	}
	if p.take('(') {
		s.arguments = p.members(')', false)
		p.bad = p.bad || len(s.arguments) == 0
	}
	s.directives = p.directives()
	if p.is('{') {
		s.selected = p.selections()
	}
	return s
}

// directives accepts @include and @skip, which every server knows.
func (p *graphParser) directives() bool {
	any := false
	for p.take('@') {
		any = true
		if name := p.name(); name != "include" && name != "skip" {
			p.bad = true
		}
		p.want('(')
		if args := p.members(')', false); len(args) != 1 || args[0].name != "if" {
			p.bad = true
		}
	}
	return any
}

// members reads arguments or the members of an object, each name once.
func (p *graphParser) members(end byte, constant bool) []graphMember {
	var out []graphMember
	for !p.bad && !p.take(end) {
		m := graphMember{name: p.name()}
		p.want(':')
		m.value = p.value(constant)
		for _, o := range out {
			p.bad = p.bad || o.name == m.name
		}
		out = append(out, m)
	}
	return out
}

// value reads a literal, or a variable where one may be.
func (p *graphParser) value(constant bool) graphValue {
	defer p.deeper()()
	t := p.next()
	v := graphValue{kind: t.kind, text: t.text}
	switch t.kind {
	case '$':
		v.text = p.name()
		p.bad = p.bad || constant
	case '[':
		for !p.bad && !p.take(']') {
			v.list = append(v.list, p.value(constant))
		}
	case '{':
		v.members = p.members('}', constant)
	case tokenName, tokenInt, tokenFloat, tokenString:
	default:
		p.bad = true
	}
	return v
}
