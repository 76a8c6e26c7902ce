package lab

import (
	"fmt"
	"slices"
	"strings"
)

// Lab is a story about TCP, told as data. It can be written as JSON and read
// back without loss.
type Lab struct {
	// strict: its rows insist on the lab's settings as on their own. Of a lab that
	// is built in some are for certain kernels only.
	strict bool

	Name     string `json:"name"`     // lower case, with hyphens
	Title    string `json:"title"`    // one line: what it shows
	Question string `json:"question"` // one sentence

	// Story is what happens and why, in paragraphs.
	Story []string `json:"story"`

	// Where is what the rows run on: a sandbox with the guest's kernel, or two
	// hosts of the stack in memory. Empty is OnGuest.
	Where Where `json:"where,omitempty"`

	// OneByOne runs the rows one after the other: each needs the machine.
	OneByOne bool `json:"one_by_one,omitempty"`

	// Setup says in one or two sentences what each row does, for the reader of
	// the table.
	Setup string `json:"setup"`

	// Peers are the hosts inside the stack, written as for --peer.
	Peers []string `json:"peers"`

	// Settings hold in every row that does not set the same otherwise. Those
	// that this kernel does not offer are left out.
	Settings []Setting `json:"settings"`

	// Faults are what goes wrong between guest and stack in every row, from its
	// first packet on, written as for --fault.
	Faults []string `json:"faults,omitempty"`

	// Columns are the figures that the table shows of each row.
	Columns []Column `json:"columns"`

	Variants []Variant `json:"variants"`

	// Client and Server say how a program of the user's plays that part; nil: it
	// cannot.
	Client *Yours `json:"client,omitempty"`
	Server *Yours `json:"server,omitempty"`

	// Draw is what a report draws beside the table. Empty is nothing.
	Draw Draw `json:"draw,omitempty"`

	// Moral is what the table shows when it is as expected. It is printed
	// below it.
	Moral []string `json:"moral"`

	Production []Look   `json:"production"` // how to see it on a real machine
	Sources    []Source `json:"sources"`
}

// Where is what the rows of a lab run on.
type Where string

// The places.
const (
	// OnGuest: a sandbox for each row. What is measured is this machine's kernel,
	// in real time, and the stack.
	OnGuest Where = "guest"

	// OnStack: two hosts of the stack on a link in memory, in virtual time. It
	// needs no kernel and no privilege, and shows the standard, not Linux.
	OnStack Where = "stack"

	// OnHost: a sandbox for each row, and a host of its own for each sandbox: a
	// network namespace that stands for the host's, with settings ("host.net.…")
	// and servers (InHost) of its own. The sandbox may reach its loopback, and it
	// reaches nothing else.
	OnHost Where = "host"
)

// onStack reports whether the rows run in virtual time.
func (l *Lab) onStack() bool { return l.Where == OnStack }

// onHost reports whether each row has a host of its own.
func (l *Lab) onHost() bool { return l.Where == OnHost }

// Variant is a row: what is changed, what is done and what is expected.
type Variant struct {
	Name  string `json:"name"`  // lower case, with hyphens; unique in its lab
	Group Group  `json:"group"` // rows of a group stand together
	Title string `json:"title"` // what is changed; at most 27 characters
	Note  string `json:"note"`  // the outcome in at most 34 characters
	Why   string `json:"why"`   // the reason, in a paragraph

	// Belief is what people say of it, where that is not what happens.
	Belief string `json:"belief,omitempty"`

	// Settings are written before the first step. A row with one that this
	// kernel does not offer is skipped.
	Settings []Setting `json:"settings,omitempty"`

	Faults []string `json:"faults,omitempty"` // beside the lab's

	Steps []Step `json:"steps"`

	// After are figures counted when all steps are done; see counts in
	// count.go for their names. Only those given are compared.
	After Figures `json:"after,omitempty"`

	// Within are figures of which only the bounds are known, such as the time
	// that is left on a timer: of steps, as "first.timer", where they do not
	// stand there, and those counted afterwards.
	Within map[string]Range `json:"within,omitempty"`
}

// Range is a figure of which only the bounds are known. They belong to it.
type Range struct {
	Min int `json:"min"`
	Max int `json:"max"`
}

// String writes the bounds as "3..7", and as "3.." where there is no upper one.
func (r Range) String() string {
	if r.Max == most {
		return fmt.Sprintf("%d..", r.Min)
	}
	return fmt.Sprintf("%d..%d", r.Min, r.Max)
}

func (r Range) holds(n int) bool { return r.Min <= n && n <= r.Max }

// Group is the part that a row plays in its lab.
type Group string

// The groups, in the order in which tables show them.
const (
	Problem Group = "problem" // the failure itself
	Cure    Group = "cure"    // what helps
	Price   Group = "price"   // what helps, and breaks something else
	Belief  Group = "belief"  // what is said to help, and does not
)

// groupHead is what a table writes over a group.
type groupHead struct {
	group Group
	head  string
}

// groups are the groups in order.
var groups = []groupHead{
	{Problem, "the problem"},
	{Cure, "cures"},
	{Price, "cures at a price"},
	{Belief, "believed to be cures"},
}

// shownGroups are the groups of a lab that shows how something works, rather than
// how it fails: of one in virtual time, or without a cure.
var shownGroups = []groupHead{
	{Problem, "what happens"},
	{Cure, "what helps"},
	{Price, "what helps, at a price"},
	{Belief, "what is believed"},
}

// groups are the lab's groups, in order.
func (l *Lab) groups() []groupHead {
	cures := func(v Variant) bool { return v.Group == Cure || v.Group == Price }
	if l.onStack() || !slices.ContainsFunc(l.Variants, cures) {
		return shownGroups
	}
	return groups
}

// Setting is one thing that is set: NAME=VALUE. A name that begins with "net."
// is a sysctl of the guest's network namespace, one that begins with "host.net."
// of the host's, in labs that are OnHost; every other is a knob, written as for
// --tcp.
type Setting string

// ofHost begins the name of a sysctl of the host's namespace.
const ofHost = "host."

// Sysctl returns the name and the value of a sysctl; ok is false for a knob. That
// of a sysctl of the host's begins with "host.".
func (s Setting) Sysctl() (name, value string, ok bool) {
	if !strings.HasPrefix(strings.TrimPrefix(string(s), ofHost), "net.") {
		return "", "", false
	}
	name, value, ok = strings.Cut(string(s), "=")
	return name, value, ok
}

func (s Setting) name() string {
	name, _, _ := strings.Cut(string(s), "=")
	return name
}

// Figures are counts by name. Those of a step that connects are "ok", the name
// of each errno that occurred, and "first-failure", the number of the attempt
// that failed first, counted from 1, if one did.
type Figures map[string]int

// Column shows a figure of each row.
type Column struct {
	Head   string `json:"head"`   // at most five characters
	Figure string `json:"figure"` // "first.ok", or a name in Variant.After
}

// Look is a command that shows the problem on a real machine.
type Look struct {
	Command string `json:"command"`
	Shows   string `json:"shows"`
}

// Source is where the reason is written down.
type Source struct {
	Where string `json:"where"`
	What  string `json:"what"`
}

// Labs returns every lab, in the order in which they are listed. Each is made
// in a file of its own; those that run in virtual time in files that begin
// with "sim".
func Labs() []Lab {
	return []Lab{
		TimeWaitExhaustion(40),
		HostPortExhaustion(40),
		TimeWaitLength(),
		SYNBacklog(2),
		AcceptOverflow(),
		SYNFlood(),
		CloseWaitLeak(),
		FinWait2Stuck(),
		HalfOpenKeepalive(),
		ZeroWindow(),
		RSTVsFIN(),

		// In virtual time.
		Handshake(),
		Teardown(),
		WhyTimeWait1(),
		WhyTimeWait2(),
		SimultaneousOpen(),
		SimultaneousClose(),
		LastAck(),
		FinWait1Pile(),
		NATIdleDrop(),
		ChallengeACK(),
		RFC1337(),
		PortReuse(),
		RecycleNAT(),
		AllStates(),
		AllStatesKernel(),
	}
}

// Find returns the lab of that name.
func Find(name string) (Lab, bool) {
	for _, l := range Labs() {
		if l.Name == name {
			return l, true
		}
	}
	return Lab{}, false
}

// settings returns what is set in a row, its own settings over the lab's, and
// which of them the row insists on.
func (l *Lab) settings(v *Variant) (all []Setting, own map[Setting]bool) {
	own = make(map[Setting]bool)
	names := make(map[string]bool)
	for _, s := range v.Settings {
		own[s] = true
		names[s.name()] = true
	}
	for _, s := range l.Settings {
		if !names[s.name()] {
			all = append(all, s)
			if l.strict {
				own[s] = true
			}
		}
	}
	return append(all, v.Settings...), own
}
