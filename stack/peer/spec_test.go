package peer

import (
	"strings"
	"testing"
)

func TestParseSpec(t *testing.T) {
	tests := []struct {
		text    string
		want    Spec
		wantErr string // a part of the error
	}{
		// The port is 80 unless the specification says otherwise, for every kind.
		{text: "web=http", want: Spec{"web", HTTP, 80}},
		{text: "db=holder:5432", want: Spec{"db", Holder, 5432}},
		{text: "gone=refuse", want: Spec{"gone", Refuse, 80}},
		{text: "void=blackhole", want: Spec{"void", Blackhole, 80}},
		{text: "void=blackhole:65535", want: Spec{"void", Blackhole, 65535}},

		// Names are host names, folded to lower case.
		{text: "Web.Example=echo", want: Spec{"web.example", Echo, 80}},
		{text: "my_db-1=discard", want: Spec{"my_db-1", Discard, 80}},
		{text: "=http", wantErr: "the name is empty"},
		{text: "a..b=http", wantErr: "empty label"},
		{text: "web.=http", want: Spec{"web", HTTP, 80}},
		{text: "web..=http", wantErr: "empty label"},
		{text: ".=http", wantErr: "the name is empty"},
		{text: "-web=http", wantErr: "hyphen"},
		{text: "wéb=http", wantErr: `'é' is not a letter`},
		{text: "a b=http", wantErr: `' ' is not a letter`},
		{text: strings.Repeat("a", 64) + "=http", wantErr: "at most 63 bytes"},
		{text: strings.Repeat("a.", 127) + "a=http", wantErr: "at most 253"},
		{text: "localhost=http", wantErr: "the guest itself"},
		{text: "a.LOCALHOST=http", wantErr: "the guest itself"},
		{text: "ip6-localhost=http", wantErr: "the guest itself"},
		{text: "IP6-loopback=http", wantErr: "the guest itself"},
		{text: "10.0.0.1=http", wantErr: "read as an address"},
		{text: "0x7f=http", wantErr: "read as an address"},
		{text: "fd00::1=http", wantErr: `':' is not a letter`},

		// Kinds.
		{text: "web", wantErr: "NAME=KIND[:PORT]"},
		{text: "web:80", wantErr: "NAME=KIND[:PORT]"},
		{text: "web=", wantErr: "the kinds are http, echo, "},
		{text: "web=ECHO", wantErr: `did you mean "echo"`},
		{text: "web=htpp", wantErr: `did you mean "http"`},
		{text: "web=black-hole", wantErr: `did you mean "blackhole"`},
		{text: "web=reseter:1", wantErr: `did you mean "resetter"`},
		{text: "web=nginx", wantErr: "the kinds are http, echo, "},
		{text: "web=" + strings.Repeat("h", 1<<16), wantErr: "is not a kind"},

		// Ports.
		{text: "web=http:", wantErr: `"" is not a port`},
		{text: "web=http:0", wantErr: "1 to 65535"},
		{text: "web=http:65536", wantErr: "1 to 65535"},
		{text: "web=http:+80", wantErr: "1 to 65535"},
		{text: "web=http:80:81", wantErr: "1 to 65535"},
		{text: "web=http:http", wantErr: "1 to 65535"},
	}
	for _, tt := range tests {
		got, err := ParseSpec(tt.text)
		switch {
		case tt.wantErr == "" && err != nil:
			t.Errorf("ParseSpec(%.80q): %v", tt.text, err)
		case tt.wantErr == "" && got != tt.want:
			t.Errorf("ParseSpec(%q) = %v, want %v", tt.text, got, tt.want)
		case tt.wantErr != "" && err == nil:
			t.Errorf("ParseSpec(%.80q) = %v, want an error with %q", tt.text, got, tt.wantErr)
		case tt.wantErr != "" && !strings.Contains(err.Error(), tt.wantErr):
			t.Errorf("ParseSpec(%.80q): %.200v, want an error with %q", tt.text, err, tt.wantErr)
		}
	}
}

func FuzzParseSpec(f *testing.F) {
	for _, seed := range []string{"web=http", "db.example=holder:5432", "a_b-c=blackhole:1", "x=htp", "=", "web=http:0", "0x=echo"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		spec, err := ParseSpec(text)
		if err != nil {
			return
		}
		again, err := ParseSpec(spec.String())
		if err != nil || again != spec {
			t.Errorf("ParseSpec(%q) = %v, but ParseSpec(%q) = %v, %v", text, spec, spec, again, err)
		}
	})
}

func TestCheck(t *testing.T) {
	specs := []Spec{{"web", HTTP, 80}, {"web", Echo, 7}, {"db", Holder, 80}}
	if err := Check(specs); err != nil {
		t.Errorf("Check(%v) = %v, want nil: the ports of a name differ", specs, err)
	}
	specs = append(specs, Spec{"web", Closer, 80}, Spec{"db", Closer, 80})
	err := Check(specs)
	if err == nil {
		t.Fatalf("Check(%v) = nil, want an error", specs)
	}
	for _, want := range []string{"web=http:80 and web=closer:80", "db=holder:80 and db=closer:80", "web=closer:8080"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("Check: %v, want it to say %q", err, want)
		}
	}
}

func TestKindText(t *testing.T) {
	for _, kind := range Kinds() {
		text, _ := kind.MarshalText()
		var again Kind
		if err := again.UnmarshalText(text); err != nil || again != kind {
			t.Errorf("UnmarshalText(%q) = %v, %v, want %v", text, again, err, kind)
		}
		if want := kind != Refuse && kind != Blackhole; kind.Listens() != want {
			t.Errorf("%v.Listens() = %v, want %v", kind, kind.Listens(), want)
		}
	}
	if Kind(0).Listens() || Kind(200).Listens() {
		t.Error("a Kind that is none listens")
	}
	if got := Kind(200).String(); got != "Kind(200)" {
		t.Errorf("Kind(200).String() = %q", got)
	}
}
