package control

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"tcpbox"
)

func (b *fakeBox) Publish(_ context.Context, p tcpbox.Publish) ([]tcpbox.PortInfo, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.published = append(b.published, p)
	if p.HostPort == 99 {
		return nil, &tcpbox.PublishError{Spec: p.String(), Err: errors.New("port 99 is in use"), Hint: "take another"}
	}
	return []tcpbox.PortInfo{{Proto: "tcp", State: tcpbox.PortWaiting, Host: netip.MustParseAddrPort("127.0.0.1:8080"), Guest: netip.MustParseAddrPort("198.18.0.2:80")}}, nil
}

func (b *fakeBox) Unpublish(p tcpbox.Publish) ([]tcpbox.PortInfo, error) {
	return b.Publish(context.Background(), p)
}

func TestPublish(t *testing.T) {
	runtimeDir(t)
	box := &fakeBox{}
	serve(t, "web", box)
	c, err := Connect("web")
	if err != nil {
		t.Fatal(err)
	}
	p, err := tcpbox.ParsePublish("8080:80")
	if err != nil {
		t.Fatal(err)
	}
	p.From = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	ports, err := c.Publish(t.Context(), p)
	if err != nil || len(ports) != 1 || ports[0].Host.Port() != 8080 || ports[0].State != tcpbox.PortWaiting {
		t.Errorf("Publish() = %+v, %v", ports, err)
	}
	if got := box.published[0]; got.String() != "127.0.0.1:8080:80" || len(got.From) != 1 || got.From[0] != p.From[0] {
		t.Errorf("the box was told %+v", got)
	}
	if ports, err := c.Unpublish(t.Context(), p); err != nil || len(ports) != 1 {
		t.Errorf("Unpublish() = %+v, %v", ports, err)
	}
	p.HostPort = 99
	var remote *RemoteError
	if _, err := c.Publish(t.Context(), p); !errors.As(err, &remote) || remote.Status != http.StatusConflict || remote.Hint != "take another" {
		t.Errorf("Publish() = %v", err)
	}
}

func TestBadPublishRequests(t *testing.T) {
	runtimeDir(t)
	box := &fakeBox{}
	serve(t, "web", box)
	c, err := Connect("web")
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		path, body string
		want       int
	}{
		{"publish", ``, http.StatusBadRequest},
		{"publish", `{"publish":"80:"}`, http.StatusBadRequest},
		{"publish", `{"publish":"8080:80","accept_from":["x"]}`, http.StatusBadRequest},
		{"publish", `{"publish":"8080:80","more":1}`, http.StatusBadRequest},
		{"unpublish", `{"publish":"8080:80","accept_from":["192.0.2.0/24"]}`, http.StatusBadRequest},
		{"publish", `{"publish":"8080:80","accept_from":["192.0.2.1/24"]}`, http.StatusBadRequest},
		{"publish", `{"publish":"8080:80","accept_from":["::ffff:192.0.2.0/120"]}`, http.StatusBadRequest},
		{"publish", `{"publish":"255.255.255.255:8080:80"}`, http.StatusBadRequest},
		{"unpublish", `{"publish":"70000:80"}`, http.StatusBadRequest},
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://sandbox/v1/"+row.path, strings.NewReader(row.body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != row.want {
			t.Errorf("%s %s: %d, want %d", row.path, row.body, resp.StatusCode, row.want)
		}
	}
	if len(box.published) != 0 {
		t.Errorf("the box was told %v", box.published)
	}
}

func (b *fakeBox) Follow(tcpbox.FollowOptions) (*tcpbox.Follower, error) {
	return nil, tcpbox.ErrTooManyFollowers
}

func (b *fakeBox) Counts() tcpbox.Counts { return tcpbox.Counts{} }
