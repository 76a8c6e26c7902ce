package relay_test

import (
	"tcpbox/stack/relay"
	"tcpbox/stack/relay/relaytest"
)

// kind is a kind of Conn that Join may meet, made of a relaytest.Conn.
type kind struct {
	name string
	make func(*relaytest.Conn) relay.Conn
}

var kinds = []kind{
	{"plain", func(c *relaytest.Conn) relay.Conn { return relaytest.Plain(c) }},
	{"trying", func(c *relaytest.Conn) relay.Conn { return c }},
	{"direct", func(c *relaytest.Conn) relay.Conn { return relaytest.Direct(c) }},
}

// unwatched is a Conn of which nothing is known beside.
type unwatched struct{ relay.Conn }
