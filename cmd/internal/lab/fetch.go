package lab

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
)

// do makes the requests and counts them, and the connections that they took.
func (f *Fetch) do() (Figures, error) {
	var connections atomic.Int64
	dialer := net.Dialer{Timeout: patience}
	transport := &http.Transport{
		MaxConnsPerHost: 1,
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
			connections.Add(1)
			return dialer.DialContext(ctx, "tcp4", address)
		},
	}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: patience}
	figures := Figures{}
	for i := range f.Times {
		if err := fetchOnce(client, "http://"+f.To+"/"); err != nil {
			return nil, fmt.Errorf("request %d: %w", i+1, err)
		}
		figures["ok"]++
	}
	figures["connections"] = int(connections.Load())
	return figures, nil
}

func fetchOnce(client *http.Client, url string) error {
	resp, err := client.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	// Only a body that was read to its end gives the connection back.
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the server answered %s", resp.Status)
	}
	return nil
}
