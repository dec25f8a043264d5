package kv

import (
	"time"

	"github.com/tnvfs/tnv"
)

const (
	// MaxKeyLen is the length of the longest key in bytes.
	MaxKeyLen = 1024
	// MaxValueLen is the length of the longest value in bytes.
	MaxValueLen = 8 << 20
)

// CheckKeys gives an error of KindInvalid if a key is empty or too long. Every
// engine calls it, so that all have the same limits.
func CheckKeys(keys ...[]byte) error {
	for _, k := range keys {
		if len(k) == 0 {
			return tnv.E("kv", tnv.KindInvalid, "empty key")
		}
		if len(k) > MaxKeyLen {
			return tnv.E("kv", tnv.KindInvalid, "key of %d bytes, at most %d are allowed", len(k), MaxKeyLen)
		}
	}
	return nil
}

// CheckBatches tells whether batches may be applied after batch stored: each
// must follow its predecessor (else *SeqError) and keep the limits (else
// KindInvalid). It looks at all of them before an engine writes any.
func CheckBatches(stored tnv.BatchSeq, batches []Batch) error {
	for i := range batches {
		b := &batches[i]
		if b.Seq != stored+1 {
			return &SeqError{Stored: stored, Got: b.Seq}
		}
		stored = b.Seq
		for _, w := range b.Writes {
			if err := CheckKeys(w.Key); err != nil {
				return err
			}
			if len(w.Value) > MaxValueLen {
				return tnv.E("kv", tnv.KindInvalid, "value of %d bytes, at most %d are allowed", len(w.Value), MaxValueLen)
			}
		}
	}
	return nil
}

// Owned tells whether an epoch owns the volume: it is the lease's, and the lease
// was not given back. Epoch 0 never owns anything.
func (l Lease) Owned(epoch tnv.Epoch) bool {
	return epoch != 0 && l.Epoch == epoch && !l.Released
}

// Next is the lease after a takeover by holder.
func (l Lease) Next(holder string, ttl time.Duration) Lease {
	return Lease{Vol: l.Vol, Epoch: l.Epoch + 1, Holder: holder, TTL: ttl}
}
