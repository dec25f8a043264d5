package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// size is a number of bytes as a flag: 1048576, 512M, 1.5GiB. K, M, G and T count in 1024s.
type size int64

// Set implements pflag.Value.
func (s *size) Set(text string) error {
	num := strings.TrimSpace(text)
	num = strings.TrimSuffix(strings.TrimSuffix(num, "B"), "i")
	shift := 0
	if i := len(num) - 1; i >= 0 {
		if at := strings.IndexByte("KMGT", num[i]&^0x20); at >= 0 {
			shift, num = 10*(at+1), num[:i]
		}
	}
	v, err := strconv.ParseFloat(num, 64)
	v *= float64(int64(1) << shift)
	if err != nil || math.IsNaN(v) || v < 0 || v >= math.MaxInt64 {
		return fmt.Errorf("%q is no size: write bytes, or a number with K, M, G or T", text)
	}
	*s = size(v)
	return nil
}

// Type implements pflag.Value.
func (s *size) Type() string { return "SIZE" }

// String implements pflag.Value.
func (s *size) String() string {
	if *s == 0 {
		return ""
	}
	return formatSize(uint64(*s))
}

// formatSize writes bytes for people, in 1024s.
func formatSize(n uint64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	v, unit := float64(n), 0
	for v >= 1024 && unit < 5 {
		v, unit = v/1024, unit+1
	}
	text := strconv.FormatFloat(v, 'f', 1, 64)
	return strings.TrimSuffix(text, ".0") + " " + "BKMGTP"[unit:unit+1] + "iB"
}
