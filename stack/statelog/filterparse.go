package statelog

import (
	"fmt"
	"strings"

	"tcpbox/stack/tcpstate"
)

// What an expression may have at most: nobody types more, and a file of them
// may be anybody's.
const (
	maxFilterTokens = 1024
	maxFilterDepth  = 64
)

// FilterError says what is wrong with a filter, and where.
type FilterError struct {
	Word   string   // the word that is wrong; "" if the filter ends too early
	Number int      // which word of the filter it is, from 1
	Text   string   // what is wrong with it
	Known  []string // the words that could stand there, if they are few
}

// Error implements error.
func (e *FilterError) Error() string {
	if e.Word == "" {
		return "statelog: the filter ends too early: " + e.Text
	}
	return fmt.Sprintf("statelog: the filter's word %d, %q, %s", e.Number, e.Word, e.Text)
}

// keywords are the words that begin a term, and what it compares.
var keywords = map[string]nodeKind{
	"state": isState, "exclude": isState, "from": isFrom, "to": isTo,
	"src": isSrc, "dst": isDst, "host": isHost,
	"sport": isSport, "dport": isDport, "port": isPort,
	"leg": isLeg, "cause": isCause, "source": isSource, "conn": isConn,
	"pid": isPID, "command": isCommand, "closed-by": isClosedBy,
}

var keywordNames = []string{
	"state", "exclude", "from", "to", "src", "dst", "host", "sport", "dport", "port",
	"leg", "cause", "source", "conn", "pid", "command", "closed-by", "and", "or", "not",
}

// FilterWords returns the words that a filter is made of, for those who complete
// what is typed.
func FilterWords() []string { return append([]string(nil), keywordNames...) }

// FilterValues returns the words that may follow keyword; nil if they are too
// many to name.
func FilterValues(keyword string) []string {
	switch keywords[strings.ToLower(keyword)] {
	case isState, isFrom, isTo:
		return tcpstate.SetNames()
	case isLeg:
		return legNames()
	case isCause:
		return append([]string(nil), causeWords...)
	case isSource:
		return append([]string(nil), sourceWords...)
	case isClosedBy:
		return closedWords()
	}
	return nil
}

// ParseFilter returns the filter that text says. An error is a *FilterError.
func ParseFilter(text string) (Filter, error) {
	p := filterParser{tokens: filterTokens(text)}
	if len(p.tokens) > maxFilterTokens {
		t := p.tokens[maxFilterTokens]
		return Filter{}, &FilterError{Word: t.text, Number: t.word, Text: "is one too many"}
	}
	if len(p.tokens) == 0 {
		return Filter{}, nil
	}
	root, err := p.or(0)
	if err == nil && p.at < len(p.tokens) {
		err = p.fault("closes nothing", nil) // all else begins a term
	}
	if err != nil {
		return Filter{}, err
	}
	return Filter{root}, nil
}

// token is a word, an operator or a parenthesis, and which word of the text it
// is in.
type token struct {
	text string
	word int
}

// filterTokens takes text apart: at blanks, and before and after each operator
// and parenthesis.
func filterTokens(text string) (tokens []token) {
	for i, word := range strings.Fields(text) {
		for word != "" {
			n := operatorLength(word)
			if n == 0 {
				if n = strings.IndexAny(word, "()=!<>&|"); n < 0 {
					n = len(word)
				}
			}
			if tokens = append(tokens, token{word[:n], i + 1}); len(tokens) > maxFilterTokens {
				return tokens
			}
			word = word[n:]
		}
	}
	return tokens
}

// operatorLength is the length of the operator or parenthesis that s begins
// with, or zero.
func operatorLength(s string) int {
	if len(s) >= 2 {
		switch s[:2] {
		case "!=", "==", "<=", ">=", "&&", "||":
			return 2
		}
	}
	if strings.IndexByte("()=!<>&|", s[0]) >= 0 {
		return 1
	}
	return 0
}

// filterParser descends:
//
//	or   = and { "or" and }
//	and  = not { ["and"] not }
//	not  = "not" not | "(" or ")" | term
//	term = KEYWORD [OPERATOR] VALUE
type filterParser struct {
	tokens []token
	at     int
}

// next returns the token at hand in small letters, or "" at the end.
func (p *filterParser) next() string {
	if p.at == len(p.tokens) {
		return ""
	}
	return strings.ToLower(p.tokens[p.at].text)
}

// fault says what is wrong with the token at hand.
func (p *filterParser) fault(text string, known []string) error {
	if p.at == len(p.tokens) {
		return &FilterError{Text: text, Known: known}
	}
	t := p.tokens[p.at]
	return &FilterError{Word: t.text, Number: t.word, Text: text, Known: known}
}

func (p *filterParser) or(depth int) (*node, error) {
	var kids []*node
	for {
		kid, err := p.and(depth)
		if err != nil {
			return nil, err
		}
		kids = append(kids, kid)
		switch p.next() {
		case "or", "|", "||":
			p.at++
			continue
		}
		return joined(isOr, kids), nil
	}
}

func (p *filterParser) and(depth int) (*node, error) {
	var kids []*node
	for {
		kid, err := p.not(depth)
		if err != nil {
			return nil, err
		}
		kids = append(kids, kid)
		switch p.next() {
		case "", "or", "|", "||", ")":
			return joined(isAnd, kids), nil
		case "and", "&", "&&":
			p.at++
		}
	}
}

func joined(kind nodeKind, kids []*node) *node {
	if len(kids) == 1 {
		return kids[0]
	}
	return &node{kind: kind, kids: kids}
}

func negated(n *node) *node { return &node{kind: isNot, kids: []*node{n}} }

func (p *filterParser) not(depth int) (*node, error) {
	if depth > maxFilterDepth {
		return nil, p.fault("is nested too deep", nil)
	}
	switch word := p.next(); word {
	case "not", "!":
		p.at++
		kid, err := p.not(depth + 1)
		if err != nil {
			return nil, err
		}
		return negated(kid), nil
	case "(":
		p.at++
		inner, err := p.or(depth + 1)
		if err != nil {
			return nil, err
		}
		if p.next() != ")" {
			return nil, p.fault("a parenthesis is open", nil)
		}
		p.at++
		return inner, nil
	case "":
		return nil, p.fault("a term is missing", nil)
	default:
		if keywords[word] == 0 {
			return nil, p.fault("begins no term", keywordNames)
		}
		return p.term(word)
	}
}

// term parses from its keyword on. States in a row are one term.
func (p *filterParser) term(keyword string) (*node, error) {
	n := &node{kind: keywords[keyword]}
	for {
		p.at++
		not, err := p.operator(n)
		if err == nil {
			err = p.value(n)
		}
		if err != nil {
			return nil, err
		}
		if not != (keyword == "exclude") {
			return negated(n), nil
		}
		if keyword != "state" || p.next() != keyword || p.at+1 < len(p.tokens) && p.tokens[p.at+1].text == "!=" {
			return n, nil
		}
	}
}
