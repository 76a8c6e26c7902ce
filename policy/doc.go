// Package policy decides which connections a sandbox may make. It is pure: it
// parses rules and answers questions; it opens, dials and applies nothing.
//
// A Policy is an ordered list of rules and a Net. The first rule that matches
// a Request decides; when none does, Net decides:
//
//	none    nothing is allowed
//	public  what is @public is allowed
//	all     everything is allowed
//
// Begin with ParseNet and ParseRule, put the results into a Policy, and call
// its Decide for each connection before anything is dialled.
//
// # Rules
//
// A rule is an action, allow or deny, and a pattern:
//
//	TARGET[:PORT[-PORT]][/PROTO]
//
//	TARGET  192.0.2.7, 192.0.2.0/24, 2001:db8::7, 2001:db8::/32,
//	        @public, @private, @host or @metadata
//	PORT    1 to 65535; without one, every port
//	PROTO   tcp, udp or icmp; without one, every protocol
//
// With a port, IPv6 stands in brackets: [2001:db8::7]:443, [2001:db8::/32]:443.
// A rule with a port never matches ICMP, which has none. A CIDR has no bits set
// behind its prefix. Names cannot be given yet.
//
// An address or a CIDR in an allow rule means what it says: allow 0.0.0.0/0
// includes the metadata services and the host's own addresses. The groups are
// more careful.
//
// # Groups
//
//   - @public: global unicast addresses that are in none of the special-purpose
//     ranges of SpecialRanges. Those are the IANA registries (RFC 6890, RFC
//     8190), multicast, and the part of the IPv6 space that is not allocated
//     for global unicast. Ranges that IANA calls globally reachable, such as
//     192.0.0.9 or 64:ff9b::/96, are special-purpose too and not public.
//   - @private: 10.0.0.0/8, 172.16.0.0/12 and 192.168.0.0/16 (RFC 1918),
//     100.64.0.0/10 (RFC 6598), 169.254.0.0/16 (RFC 3927), fc00::/7 (RFC 4193),
//     fe80::/10 (RFC 4291), and fec0::/10 (RFC 3879, deprecated). These are the
//     ranges in which a neighbour of the host answers; nothing else belongs to
//     them.
//   - @host: what the HostAddrs given to Decide owns at that moment, loopback
//     (127.0.0.0/8, ::1) and the unspecified addresses (0.0.0.0, ::).
//   - @metadata: the addresses in MetadataAddrs at which clouds serve
//     credentials and instance data, whatever range they are in. 168.63.129.16
//     is in a public range and is metadata all the same.
//
// An allow rule takes a group narrowly and a deny rule takes it widely, so that
// neither opens more than was meant:
//
//   - allow @public and allow @private leave out what the host owns and
//     metadata, and allow @host leaves out metadata: each of these needs its
//     own word. Net public is narrow in the same way.
//   - deny @public and deny @private match by range alone: deny @private also
//     closes 169.254.169.254, and the host's own private addresses.
//
// # Disguises
//
// Before anything is matched the destination is brought to one form: a zone is
// dropped, and the IPv4-mapped ::ffff:192.0.2.7 is 192.0.2.7 itself, in
// requests and in rules.
//
// Other IPv6 addresses carry an IPv4 address to which a translator or a tunnel
// may send the packet: NAT64 (64:ff9b::/96, RFC 6052, and 64:ff9b:1::/48, RFC
// 8215, in each place RFC 6052 allows), 6to4 (2002::/16, RFC 3056), Teredo
// (2001::/32, RFC 4380; the server and the client), ISATAP (RFC 5214),
// IPv4-compatible ::192.0.2.7 (RFC 4291) and IPv4-translated ::ffff:0:192.0.2.7
// (RFC 2765). A deny rule matches if the address or any address it carries
// matches. An allow rule looks at the address as it is written, and a group in
// an allow rule besides refuses carried addresses that it leaves out. An
// address is public only if all that it carries is public too. A NAT64 prefix
// of a network's own cannot be told from an ordinary address and is not seen
// through.
//
// So on a network that reaches IPv4 through NAT64, these rules open IPv4 and
// nothing behind it that should stay closed:
//
//	deny @host, deny @metadata, deny @private, allow 64:ff9b::/96
//
// # What no rule and no Net allows
//
// The host's loopback has no address inside a sandbox: the guest's kernel keeps
// 127.0.0.0/8 and ::1 to itself. A packet that claims such a destination all
// the same is forged, and dialling it would reach the host's loopback, so
// Decide refuses loopback always, and with it the unspecified addresses, which
// Linux dials as loopback; that holds in disguise too, but for 64:ff9b:1::/48,
// whose readings are four guesses of which at most one is right. TCP to a
// multicast or broadcast address is refused always, for there is no such thing
// (RFC 9293, section 3.9.2.3). A Request without a valid address or a protocol
// is refused.
//
// # The host's loopback
//
// A sandbox may give the host's loopback an address of its own, by which a
// service that listens on localhost can be used on purpose. A Request that came
// in by it has Host set. Rules are tried in order as ever, but of the allow
// rules only "allow @host" matches, with its port and protocol; a deny rule
// matches by its group @host or by the loopback address. When none matches the
// request is refused, whatever Net says.
//
// # Hints
//
// The Verdict of a refusal has a Hint, the flag that would allow exactly this:
// --allow 10.0.0.5:5432. Rules are tried in order, so where a rule refused
// (Verdict.Rule begins with "deny"), the flag must stand before that rule's
// own. A refusal of the section above has no Hint.
//
// What package stack serves itself, the resolver and the hosts inside the
// stack, is never asked about here.
package policy
