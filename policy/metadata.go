package policy

import (
	"net/netip"
	"slices"
)

// MetadataAddr is an address at which a cloud serves credentials or instance
// data to whoever asks from the machine.
type MetadataAddr struct {
	Addr netip.Addr
	Who  string
}

// metadataAddrs are those that the clouds document, in the order of addresses.
var metadataAddrs = []MetadataAddr{
	{ip("100.96.0.96"), "Volcano Engine, BytePlus"},
	{ip("100.100.100.200"), "Alibaba Cloud"},
	{ip("168.63.129.16"), "Azure wire server; in a public range"},
	{ip("169.254.0.23"), "Tencent Cloud"},
	{ip("169.254.42.42"), "Scaleway"},
	{ip("169.254.169.254"), "AWS, Azure, Google Cloud, Oracle Cloud, OpenStack and most others"},
	{ip("169.254.170.2"), "AWS ECS task credentials"},
	{ip("169.254.170.23"), "AWS EKS pod identity"},
	{ip("192.0.0.192"), "Oracle Cloud Classic"},
	{ip("fd00:42::42"), "Scaleway"},
	{ip("fd00:100::100:200"), "Alibaba Cloud"},
	{ip("fd00:a9fe:a9fe::1"), "Akamai (Linode)"},
	{ip("fd00:c1::a9fe:a9fe"), "Oracle Cloud"},
	{ip("fd00:ec2::23"), "AWS EKS pod identity"},
	{ip("fd00:ec2::254"), "AWS"},
	{ip("fd20:ce::254"), "Google Cloud"},
	{ip("fe80::a9fe:a9fe"), "OpenStack"},
}

// ip is for the table above, whose addresses are constant.
func ip(text string) netip.Addr { return netip.MustParseAddr(text) }

// MetadataAddrs returns the addresses of @metadata. The slice is the caller's.
func MetadataAddrs() []MetadataAddr { return slices.Clone(metadataAddrs) }

// isMetadata reports whether addr, which has no zone and is not IPv4-mapped,
// is in @metadata.
func isMetadata(addr netip.Addr) bool {
	for i := range metadataAddrs {
		if metadataAddrs[i].Addr == addr {
			return true
		}
	}
	return false
}
