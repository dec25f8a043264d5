package httpd

import "testing"

// One daemon per address: it has one identity for good, and no other has it.
func TestIdentity(t *testing.T) {
	a, b := identity("127.0.0.1:8080"), identity("127.0.0.1:8081")
	if a == "" || a == b || a != identity("127.0.0.1:8080") {
		t.Errorf("%q, %q", a, b)
	}
}
