package policy

import (
	"fmt"
	"strings"
)

// Net says what becomes of a request that no rule matches. The zero Net is
// NetNone, which allows nothing; the default of the command line is NetPublic.
type Net uint8

// The values of Net.
const (
	NetNone   Net = iota // nothing
	NetPublic            // what is @public
	NetAll               // everything

	numNets
)

// netVerdicts are the words of Verdict.Rule, whole so that Decide need not
// build them.
var netVerdicts = [numNets]string{"net none", "net public", "net all"}

// ParseNet returns the Net that text names: "none", "public" or "all". The
// error is a *ParseError.
func ParseNet(text string) (Net, error) {
	for n := NetNone; n < numNets; n++ {
		if n.String() == text {
			return n, nil
		}
	}
	return NetNone, &ParseError{
		Input:   text,
		Column:  1,
		Message: "is not a value of --net",
		Hint:    "--net is none, public or all",
	}
}

// String returns "none", "public" or "all".
func (n Net) String() string {
	if n < numNets {
		return strings.TrimPrefix(netVerdicts[n], "net ")
	}
	return fmt.Sprintf("Net(%d)", uint8(n))
}

// MarshalText implements encoding.TextMarshaler.
func (n Net) MarshalText() ([]byte, error) { return []byte(n.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler; it accepts what ParseNet
// accepts.
func (n *Net) UnmarshalText(text []byte) error {
	parsed, err := ParseNet(string(text))
	if err != nil {
		return err
	}
	*n = parsed
	return nil
}
