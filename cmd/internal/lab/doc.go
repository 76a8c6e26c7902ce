// Package lab reproduces TCP problems on the machine in front of you, offline
// and without root, and says whether what was expected is what happened.
//
// A Lab is data: a question, rows (Variant) that each change one thing, the
// steps that are done in each row, and the figures that are expected. Each row
// runs in a sandbox of its own, against hosts that live inside the stack:
//
//	Runner ──SetSysctl, counts──▶ the sandbox's namespace
//	   │  ▲                               │
//	   │  └──Figures, one JSON line───────┤
//	   └─────Step, one JSON line──────▶ guest (ServeGuest): a small program
//	                                      that plays the client
//
// The rows of a lab that is OnStack run in virtual time instead, on two simulated
// hosts (package sim): their steps are scripts (SimStep), which a player does line
// by line. A check that does not hold is a Miss.
//
// A row of a lab that is OnHost runs as one of a guest does, in a process of its own
// (ServeHost) whose network namespace stands for the host, so that the host's side
// can be set and counted too.
//
// Further steps are done by more programs in the guest, and by the stack: it opens
// connections to the guest and plays hosts. Labs that need no kernel run in virtual
// time, on two hosts of package sim. A lab may also be read from a file, see Parse.
//
// Run measures, and gives a Report, which prints itself as a table or as JSON.
// Nothing here knows one lab from another: what is peculiar to one is in its
// data. Begin with Labs and Runner.Run.
package lab
