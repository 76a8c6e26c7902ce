// Package bench measures tcpbox against a plain kernel path and against other
// user-mode stacks, in closed namespaces: "make bench". There is nothing in it
// but tests; without the flag -measure one short round shows that they work.
//
//	guest  ──(way)──  uplink ──veth── remote
//
// A way is how the guest reaches the remote: "veth" runs it in the uplink
// namespace itself, so it is what the kernel alone does on the same path;
// "tcpbox" runs it in a sandbox there; pasta and slirp4netns, where they are
// installed, in theirs. Guest and server are this test binary, whatever the way.
// In each round every way is measured once, one after the other, so that what
// else the machine does meets all of them; reported are medians of the rounds,
// and of ratios within a round.
package bench
