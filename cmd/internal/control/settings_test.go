package control

import (
	"errors"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"tcpbox"
	"tcpbox/policy"
	"tcpbox/policy/document"
	"tcpbox/policy/knob"
	"tcpbox/stack/tcpstate"
)

func (b *fakeBox) Settings() tcpbox.Settings {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.settings
}

func (b *fakeBox) Amend(change func(tcpbox.Settings) tcpbox.Settings) ([]knob.Change, error) {
	next := change(b.Settings())
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil {
		return nil, b.err
	}
	if err := next.Check(); err != nil {
		return nil, &tcpbox.ConfigError{Err: err}
	}
	b.settings = next
	return []knob.Change{{Leg: tcpstate.Stack, Key: "fin-timeout", From: "60s", To: "5s", Applied: true, Text: "done", Existing: "new ones follow"}}, nil
}

func TestSettings(t *testing.T) {
	runtimeDir(t)
	box := &fakeBox{settings: tcpbox.Settings{Policy: policy.Policy{Net: policy.NetAll}}}
	serve(t, "web", box)
	c, err := Connect("web")
	if err != nil {
		t.Fatal(err)
	}

	answer, err := c.Set(t.Context(), "stack.fin-timeout=5s")
	if err != nil || len(answer.Changes) != 1 || answer.Changes[0].Line(">") != "stack.fin-timeout: 60s > 5s: new ones follow" {
		t.Errorf("Set = %+v, %v", answer, err)
	}
	now, err := c.Settings(t.Context())
	if err != nil || now.Document.String() != "version: 1\nnet: all\ntcp:\n  stack.fin-timeout: 5s\n" {
		t.Errorf("Settings = %+v, %v", now, err)
	}
	found := false
	for _, k := range now.Knobs {
		if k.Key == "fin-timeout" && k.Leg == "stack" {
			found = k.Value == "5s" && k.Source == "set" && k.Carries
		}
	}
	if !found {
		t.Errorf("the stack's fin-timeout is not among %+v", now.Knobs)
	}

	// A key that was given twice, as --tcp or set may: the last one holds, and
	// what is in force can still be read.
	if _, err := c.Set(t.Context(), "stack.fin-timeout=5s", "stack.fin-timeout=6s"); err != nil {
		t.Errorf("Set of a key twice: %v", err)
	}
	if now, err = c.Settings(t.Context()); err != nil || now.Document.String() != "version: 1\nnet: all\ntcp:\n  stack.fin-timeout: 6s\n" {
		t.Errorf("Settings after a key was set twice = %v, %v", now.Document, err)
	}

	// What is no knob.
	answer, err = c.Set(t.Context(), "limits.connections=9", "net=none", "net.ipv4.tcp_sack=0", "net.ipv4.tcp_sack=1")
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, change := range answer.Changes {
		lines = append(lines, change.Line(">"))
	}
	if got := strings.Join(lines, "\n"); got != "net: all > none: from the next connection on; those that stand are not asked again\n"+
		"limits.connections: 65536 > 9: from now on; what there is already stays\n"+
		"net.ipv4.tcp_sack: what it was > 1: from now on, where the kernel looks at it" {
		t.Errorf("what is no knob changes\n%s", got)
	}
	if now, err = c.Settings(t.Context()); err != nil || now.Document.String() !=
		"version: 1\nnet: none\ntcp:\n  stack.fin-timeout: 6s\nsysctl:\n  net.ipv4.tcp_sack: 1\nlimits:\n  connections: 9\n" {
		t.Errorf("Settings then = %v, %v", now.Document, err)
	}

	d, err := document.Parse("", []byte("version: 1\nnet: none\nrules: [allow 192.0.2.1:80]\nsysctl: {net.ipv4.tcp_sack: 0}\nlimits: {connections: 7}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.SetPolicy(t.Context(), "", d.String()); err != nil {
		t.Errorf("SetPolicy: %v", err)
	}
	if got := DocumentOf(box.Settings()).String(); got != d.String() {
		t.Errorf("SetPolicy of\n%smade\n%s", d, got)
	}
	for _, row := range []struct{ faults, want string }{
		{"loss 5%, drop udp", "fault: none > loss 5%, fault: none > drop udp"},
		{"drop udp", "fault: loss 5% > none"},
		{"drop udp", ""},
	} {
		answer, err := c.SetPolicy(t.Context(), "", "version: 1\nfaults: ["+row.faults+"]\n")
		var lines []string
		for _, change := range answer.Changes {
			if change.Key == "fault" {
				text, _, _ := strings.Cut(change.Line(">"), ": from the next packet on")
				lines = append(lines, text)
			}
		}
		if got := strings.Join(lines, ", "); err != nil || got != row.want {
			t.Errorf("SetPolicy to %s tells %q, %v; want %q", row.faults, got, err, row.want)
		}
	}

	// Who set what is the file, however it is called, and the line in it.
	large := "version: 1\n# " + strings.Repeat("é<", 80<<10) + "\ntcp: {\n  fin-timeout: 5s}\nsysctl: {net.ipv4.tcp_sack: 0}\n"
	for file, want := range map[string]string{
		"":                       "line 4",
		"C.yaml":                 "C.yaml:4",
		"\x1b[2J.yaml":           `"\x1b[2J.yaml":4`,
		strings.Repeat("é", 200): "..." + strings.Repeat("é", 127) + ":4",
	} {
		if _, err := c.SetPolicy(t.Context(), file, large); err != nil {
			t.Errorf("SetPolicy of %q: %v", file, err)
		}
		now, err := c.Settings(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range now.Knobs {
			if k.Leg == "guest" && (k.Key == "fin-timeout" && k.Source != want || k.Key == "sack" && k.Source != strings.TrimSuffix(want, "4")+"5") {
				t.Errorf("%s is %s from %q, want %q", k.Key, k.Value, k.Source, want)
			}
		}
	}
	if !reflect.DeepEqual(SettingsOf(DocumentOf(box.Settings())), box.Settings()) {
		t.Errorf("%+v is not what its document says", box.Settings())
	}

	// What is wrong leaves what is in force.
	for _, row := range []struct{ path, body, want string }{
		{"set", `{}`, "nothing to set"},
		{"set", `{"settings":"fin-timeout=5s"}`, "settings is a list, and not string"},
		{"set", `{"settings":[5]}`, "settings is a string, and not number"},
		{"set", `[]`, "the body is an object, and not array"},
		{"set", `{"settings":`, "the body is not JSON: unexpected EOF"},
		{"set", `settings`, "the body is not JSON: invalid character 's' looking for beginning of value"},
		{"set", `{"setings":[]}`, "\"error\":\"unknown field"},
		{"set", `{"settings":["fin-timout=5s"]}`, `no knob \"fin-timout\"`},
		{"set", `{"settings":["upstream.half-close-timeout=5s"]}`, "the upstream leg cannot carry it"},
		{"set", `{"setings":[]}`, "unknown field"},
		{"set", `{"settings":["limits.connections=0"]}`, "is not a limit of connections"},
		{"set", `{"settings":["net=some"]}`, "is not a value of net"},
		{"policy", `{"document":{"version":1,"net":"some"}}`, "is not a value of net"},
		{"policy", `{"document":{"version":1,"dns":{"servers":"none"}}}`, "dns cannot be changed"},
		{"policy", `{"document":{}}`, "version is missing"},
		{"policy", `{"document":null}`, "no document"},
		{"policy", `{}`, "no document"},
		{"policy", `{"document":{"version":1},"text":"version: 1"}`, "document and text are two policies"},
		{"policy", `{"text":"version: 1\nnet: some\n","file":"C.yaml"}`, "C.yaml:2:6: "},
		{"policy", `{"text":""}`, "there is nothing in it"},
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://sandbox/v1/"+row.path, strings.NewReader(row.body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusBadRequest || !strings.Contains(string(text), row.want) {
			t.Errorf("POST %s %s: %d %s, want 400 and %s", row.path, row.body, resp.StatusCode, text, row.want)
		}
	}
	box.mu.Lock()
	box.err = errors.New("the kernel said no")
	box.mu.Unlock()
	if _, err := c.Set(t.Context(), "stack.fin-timeout=5s"); err == nil || !strings.Contains(err.Error(), "the kernel said no") {
		t.Errorf("Set of a box that fails: %v", err)
	}
}
