// Package cni is the CNI plugin: what ADD, CHECK, DEL, GC and STATUS do, what they
// remember of a container between two calls, and the process that serves it.
//
//	runtime ──▶ tcpbox-cni ADD ──▶ IPAM plugin
//	                 │  devices, routes
//	                 └─ starts ──▶ stack process, one for each attachment
//
// The plugin ends at once; the stack process lives as long as the container's
// network namespace. It is found again by its control socket, and what DEL needs to
// know beside lies in the state directory. Begin with Main, which is the whole of
// cmd/tcpbox-cni.
package cni
