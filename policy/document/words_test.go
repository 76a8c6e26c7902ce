package document

import (
	"errors"
	"strings"
	"testing"

	"tcpbox/policy/knob"
)

// What a command line may say, and the document that says the same.
func TestParseWords(t *testing.T) {
	for words, want := range map[string]string{
		"":                          "version: 1\n",
		"fin-timeout=5s":            "version: 1\ntcp:\n  fin-timeout: 5s\n",
		"net=none":                  "version: 1\nnet: none\n",
		"net=none net=all":          "version: 1\nnet: all\n",
		"limits.buffers=64M":        "version: 1\nlimits:\n  buffers: 64M\n",
		"limits.log-rate=7":         "version: 1\nlimits:\n  log-rate: 7\n",
		"net.ipv4.a=1 net.ipv4.a=2": "version: 1\nsysctl:\n  net.ipv4.a: 2\n",
		"stack.fin-timeout=5s net.core.b=x limits.connections=1 net=public": "version: 1\nnet: public\ntcp:\n  stack.fin-timeout: 5s\nsysctl:\n  net.core.b: x\nlimits:\n  connections: 1\n",
	} {
		d, err := ParseWords(strings.Fields(words), "set")
		if got := strings.ReplaceAll(d.String(), `"`, ""); err != nil || got != want {
			t.Errorf("ParseWords(%s) = %v\n%swant\n%s", words, err, got, want)
		}
	}
	// One leg's setting wins over that of all, in any order.
	d, err := ParseWords([]string{"stack.fin-timeout=5s", "fin-timeout=7s"}, "set")
	if err != nil || len(d.TCP) != 2 || d.TCP[0].Source != "set" {
		t.Errorf("ParseWords of a leg and of all = %+v, %v", d.TCP, err)
	}
}

func TestParseWordsFaults(t *testing.T) {
	for word, want := range map[string][2]string{
		"fin-timeout":          {"it has no value", "KEY=VALUE"},
		"net=some":             {`"some" is not a value of net`, "net is none, public or all"},
		"limits.connections=0": {`"0" is not a limit of connections`, "connections is a whole number from 1 to 1048576"},
		"limits.buffers=1X":    {`"1X" is not a limit of buffers`, "buffers is a number of bytes, such as 64M, up to 1024G"},
		"limits.conections=3":  {`there is no limit "conections"`, "did you mean limits.connections?"},
		"limits.zzzzzzzz=3":    {`there is no limit "zzzzzzzz"`, "the limits are limits.connections, limits.udp-flows, limits.buffers, limits.log-rate"},
		"rules=deny @private":  {"rules is no single value", "--policy FILE"},
		"preset=linux":         {"preset is no single value", "--policy FILE"},
		"net.ipv4.tcp_mem=1":   {"it cannot be set for one sandbox", "leave it out"},
		"kernel.hostname=x":    {"it is not of a network namespace", "only what begins with net."},
		"vm.swappiness=1":      {"it is not of a network namespace", "only what begins with net."},
		"kernelhostname=x":     {`there is no knob "kernelhostname"`, `"tcpbox explain" lists the knobs`},
		"backlog=3":            {`there is no knob "backlog"`, `did you mean syn-backlog or accept-backlog? "tcpbox explain" lists the knobs`},
		"xyzzyxyzzy=3":         {`there is no knob "xyzzyxyzzy"`, `"tcpbox explain" lists the knobs`},
		"fin-timout=3s":        {`there is no knob "fin-timout"`, "did you mean fin-timeout?"},
	} {
		d, err := ParseWords([]string{word, "fin-timeout=5s"}, "")
		var fault *knob.Error
		if !errors.As(err, &fault) || !strings.Contains(fault.Message, want[0]) || !strings.Contains(fault.Hint, want[1]) || len(d.TCP) > 0 {
			t.Errorf("ParseWords(%s) = %v, %+v, want %q", word, d, fault, want)
		}
	}
	if _, err := ParseWords([]string{"a=1", "b=2"}, ""); strings.Count(err.Error(), "\n") != 1 {
		t.Errorf("not every fault is told: %v", err)
	}
}
