package control

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"tcpbox"
	"tcpbox/policy"
	"tcpbox/policy/document"
	"tcpbox/policy/knob"
)

// SettingsAnswer is the answer to GET /v1/settings.
type SettingsAnswer struct {
	V        int               `json:"v"`
	Document document.Document `json:"document"` // what is in force, but for dns, which does not change
	Knobs    []KnobValue       `json:"knobs"`
}

// KnobValue is what holds for one knob on one leg.
type KnobValue struct {
	Key     string `json:"key"`
	Leg     string `json:"leg"`
	Carries bool   `json:"carries"`          // the leg can carry it
	Value   string `json:"value,omitempty"`  // what holds
	Source  string `json:"source,omitempty"` // who says so
	Text    string `json:"text,omitempty"`   // what was done, or why not
}

// KnobValues are those of a plan.
func KnobValues(values []knob.Value) []KnobValue {
	out := make([]KnobValue, 0, len(values))
	for _, v := range values {
		out = append(out, KnobValue{Key: v.Key, Leg: v.Leg.String(), Carries: v.Carries, Value: v.Value, Source: v.Source, Text: v.Text})
	}
	return out
}

// SetRequest is the body of POST /v1/set.
type SetRequest struct {
	Settings []string `json:"settings"` // as document.ParseWords reads them
}

// PolicyRequest is the body of POST /v1/policy, with Document or Text. What it does
// not say is set to its default.
type PolicyRequest struct {
	Document *document.Document `json:"document,omitempty"`

	// Text is a document as it is written in the file called File, which is for messages
	// and for who set what. It may be empty.
	Text *string `json:"text,omitempty"`
	File string  `json:"file,omitempty"`
}

// document is what is asked for.
func (r PolicyRequest) document() (document.Document, error) {
	switch {
	case r.Document != nil && r.Text != nil:
		return document.Document{}, errors.New("document and text are two policies")
	case r.Document != nil:
		return *r.Document, nil
	case r.Text != nil:
		return document.Parse(sourceName(r.File), []byte(*r.Text))
	}
	return document.Document{}, errors.New("there is no document")
}

// maxSourceName bounds the name of a file that stands beside every setting of it, in
// bytes.
const maxSourceName = 255

// sourceName is FileName of the end of a path that may come from anybody.
func sourceName(path string) string {
	if n := len(path) - maxSourceName; n > 0 {
		path = "..." + strings.ToValidUTF8(path[n:], "")
	}
	return FileName(path)
}

// FileName is path as it may stand in a message: in quotes if it would disturb a
// terminal.
func FileName(path string) string {
	if quoted := strconv.Quote(path); quoted != `"`+path+`"` {
		return quoted
	}
	return path
}

// ChangesAnswer is the answer to both.
type ChangesAnswer struct {
	V       int      `json:"v"`
	Changes []Change `json:"changes"`
	Notes   []string `json:"notes,omitempty"` // what the settings say of themselves
}

// Change is what one leg made of a setting.
type Change struct {
	Leg      string `json:"leg,omitempty"` // none: it is no knob, but net, a limit, a sysctl or a fault
	Key      string `json:"key"`
	From     string `json:"from,omitempty"`
	To       string `json:"to,omitempty"`
	Applied  bool   `json:"applied"`
	Text     string `json:"text"`               // what was done, or why not
	Existing string `json:"existing,omitempty"` // whether connections that are there follow
}

// ChangesOf are the changes of a set.
func ChangesOf(changes []knob.Change) []Change {
	out := make([]Change, 0, len(changes))
	for _, c := range changes {
		out = append(out, Change{c.Leg.String(), c.Key, c.From, c.To, c.Applied, c.Text, c.Existing})
	}
	return out
}

// OtherChanges are what differs between two settings and is of no leg, but for the
// rules, of which there may be many.
func OtherChanges(before, now tcpbox.Settings) []Change {
	var out []Change
	note := func(key, from, to, existing string) {
		if from != to {
			out = append(out, Change{Key: key, From: from, To: to, Applied: true, Text: "in force", Existing: existing})
		}
	}
	note("net", before.Policy.Net.String(), now.Policy.Net.String(), "from the next connection on; those that stand are not asked again")
	was := document.Limits(before.Limits).Each()
	for i, l := range document.Limits(now.Limits).Each() {
		note("limits."+l.Name, was[i].Value, l.Value, "from now on; what there is already stays")
	}
	const sysctl = "from now on, where the kernel looks at it"
	find := func(of []knob.Sysctl, name string) int {
		return slices.IndexFunc(of, func(s knob.Sysctl) bool { return s.Name == name })
	}
	for _, s := range now.Sysctls {
		from := "what it was"
		if i := find(before.Sysctls, s.Name); i >= 0 {
			from = before.Sysctls[i].Value
		}
		note(s.Name, from, s.Value, sysctl)
	}
	for _, s := range before.Sysctls {
		if find(now.Sysctls, s.Name) < 0 {
			to := "what it was"
			if c := document.Conflicts(document.Document{TCP: now.Knobs, Sysctls: []knob.Sysctl{s}}); len(c) > 0 {
				to = "as " + c[0].Setting.String() + " says"
			}
			note(s.Name, s.Value, to, sysctl)
		}
	}
	gone, come := now.FaultsSince(before)
	for _, f := range gone {
		note("fault", f.String(), "none", "from the next packet on; what it kept back arrives at once")
	}
	for _, f := range come {
		note("fault", "none", f.String(), "from the next packet on")
	}
	return out
}

const (
	setBody    = `the body is {"settings": ["fin-timeout=5s"]}`
	policyBody = `the body is {"document": {"version": 1}}; see docs/policy.md`
)

func (s *Server) settings(w http.ResponseWriter, _ *http.Request) {
	now := s.box.Settings()
	values, err := now.Values()
	if err != nil {
		refuse(w, http.StatusInternalServerError, err, "")
		return
	}
	answer(w, http.StatusOK, SettingsAnswer{V: Version, Document: DocumentOf(now), Knobs: KnobValues(values)})
}

func (s *Server) set(w http.ResponseWriter, r *http.Request) {
	var req SetRequest
	err := read(r, &req)
	if err == nil && len(req.Settings) == 0 {
		err = errors.New("there is nothing to set")
	}
	if err != nil {
		refuse(w, http.StatusBadRequest, err, setBody)
		return
	}
	over, err := document.ParseWords(req.Settings, "")
	if err != nil {
		refuseSettings(w, http.StatusBadRequest, err)
		return
	}
	asked := func(key string) bool {
		return slices.ContainsFunc(over.TCP, func(s knob.Setting) bool { return s.Key == key })
	}
	var before, now tcpbox.Settings
	changes, err := s.box.Amend(func(was tcpbox.Settings) tcpbox.Settings {
		before, now = was, SettingsOf(over.Amending(DocumentOf(was)))
		return now
	})
	changes = slices.DeleteFunc(changes, func(c knob.Change) bool { return !asked(c.Key) })
	s.answerChanges(w, append(ChangesOf(changes), OtherChanges(before, now)...), err, asked)
}

func (s *Server) policy(w http.ResponseWriter, r *http.Request) {
	var req PolicyRequest
	err := read(r, &req)
	var d document.Document
	if err == nil {
		d, err = req.document()
	}
	if err != nil {
		refuse(w, http.StatusBadRequest, err, policyBody)
		return
	}
	if d := d.DNS; d.Mode != document.DNSUnsaid || len(d.Hosts) > 0 {
		refuse(w, http.StatusBadRequest, errors.New("dns cannot be changed while the sandbox runs"), "leave it out, or start the sandbox again")
		return
	}
	var before, now tcpbox.Settings
	changes, err := s.box.Amend(func(was tcpbox.Settings) tcpbox.Settings {
		before, now = was, SettingsOf(d)
		return now
	})
	s.answerChanges(w, append(ChangesOf(changes), OtherChanges(before, now)...), err, ChangedIn(changes))
}

// ChangedIn returns what reports whether a knob is among changes.
func ChangedIn(changes []knob.Change) func(key string) bool {
	return func(key string) bool {
		return slices.ContainsFunc(changes, func(c knob.Change) bool { return c.Applied && c.Key == key })
	}
}

// answerChanges answers with what was changed, or why not, and with the notes of
// the knobs that are news.
func (s *Server) answerChanges(w http.ResponseWriter, changes []Change, err error, news func(key string) bool) {
	var wrong *tcpbox.ConfigError
	switch {
	case errors.As(err, &wrong):
		refuseSettings(w, http.StatusBadRequest, err)
	case err != nil:
		refuseSettings(w, http.StatusConflict, err)
	default:
		out := ChangesAnswer{V: Version, Changes: changes}
		for _, n := range s.box.Settings().Notes() {
			if news(n.Key) {
				out.Notes = append(out.Notes, n.Text)
			}
		}
		answer(w, http.StatusOK, out)
	}
}

// refuseSettings answers with the hint of the first error that has one.
func refuseSettings(w http.ResponseWriter, status int, err error) {
	hint := ""
	var setting *knob.Error
	if errors.As(err, &setting) {
		hint = setting.Hint
	}
	refuse(w, status, err, hint)
}

// SettingsOf is what of a document can be changed while a sandbox runs.
func SettingsOf(d document.Document) tcpbox.Settings {
	s := tcpbox.Settings{Policy: policy.Policy{Net: policy.NetPublic}, Knobs: d.Settings(), Limits: tcpbox.Limits(d.Limits)}
	if d.Net != nil {
		s.Policy.Net = *d.Net
	}
	for _, r := range d.Rules {
		s.Policy.Rules = append(s.Policy.Rules, r.Rule)
	}
	s.Sysctls = append(s.Sysctls, d.Sysctls...)
	for _, f := range d.Faults {
		s.Faults = append(s.Faults, f.Fault)
	}
	return s
}

// DocumentOf is the document that says what s does. SettingsOf turns it into s
// again, but for settings that a later one of the same key and leg overrides: a
// document has each key once.
func DocumentOf(s tcpbox.Settings) document.Document {
	net := s.Policy.Net
	d := document.Document{Net: &net, Limits: document.Limits(s.Limits)}
	for i, k := range s.Knobs {
		again := func(later knob.Setting) bool { return later.Key == k.Key && later.Leg == k.Leg }
		if !slices.ContainsFunc(s.Knobs[i+1:], again) {
			d.TCP = append(d.TCP, k)
		}
	}
	for _, r := range s.Policy.Rules {
		d.Rules = append(d.Rules, document.Rule{Rule: r})
	}
	d.Sysctls = append(d.Sysctls, s.Sysctls...)
	for _, f := range s.Faults {
		d.Faults = append(d.Faults, document.FaultRule{Fault: f})
	}
	return d
}

// Settings returns what is in force.
func (c *Client) Settings(ctx context.Context) (SettingsAnswer, error) {
	var out SettingsAnswer
	err := c.do(ctx, requestTimeout, http.MethodGet, "settings", nil, &out)
	return out, err
}

// Set changes what the words say, as document.ParseWords reads them, all or nothing.
func (c *Client) Set(ctx context.Context, words ...string) (ChangesAnswer, error) {
	var out ChangesAnswer
	err := c.do(ctx, requestTimeout, http.MethodPost, "set", SetRequest{words}, &out)
	return out, err
}

// SetPolicy puts the document that text is, of the file called so, in the place of all
// that is in force.
func (c *Client) SetPolicy(ctx context.Context, file, text string) (ChangesAnswer, error) {
	var out ChangesAnswer
	err := c.do(ctx, requestTimeout, http.MethodPost, "policy", PolicyRequest{Text: &text, File: file}, &out)
	return out, err
}

// Line returns one line for people, with arrow between what was and what is.
func (c Change) Line(arrow string) string {
	name := c.Key
	if c.Leg != "" {
		name = c.Leg + "." + name
	}
	if !c.Applied {
		return name + " is not changed: " + c.Text
	}
	from := c.From
	if from == "" {
		from = "its default"
	}
	return fmt.Sprintf("%s: %s %s %s: %s", name, from, arrow, c.To, c.Existing)
}
