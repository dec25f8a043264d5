package tnv

import (
	"os"
	"strings"
)

// HostID names this machine: equal for all processes on it, different between
// machines. It is the content of /etc/machine-id (machine-id(5)), or the host's
// name where that file is missing or empty; "" if neither is known.
func HostID() string {
	if b, err := os.ReadFile("/etc/machine-id"); err == nil {
		if id := strings.TrimSpace(string(b)); id != "" {
			return id
		}
	}
	name, err := os.Hostname()
	if err != nil {
		return ""
	}
	return name
}
