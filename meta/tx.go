package meta

import (
	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/kv"
	"github.com/tnvfs/tnv/protocol"
)

// Tx is what a function over the records sees: the newest published state, and
// over it what the function itself wrote. It is used under the store's lock.
//
// get returns errMiss where a record is not in memory. A function passes that
// on like any error; it runs again when the record is there. So it has no
// effect but its writes, and after functions.
type Tx struct {
	s       *store
	writing bool
	seq     tnv.BatchSeq // the number that the batch gets if the function writes
	now     int64        // nanoseconds since 1970; grows with every batch
	seen    tnv.BatchSeq // the newest batch, applied or not, that was looked at
	local   map[string]any
	order   []string // keys of local, in the order of their first write
	raw     []kv.Write
	ids     map[string]uint64
	after   []func()
	freed   int // blocks that the function has freed, or changed the references of
	refs    map[tnv.BlockID]refChange

	missing []string
	lackIDs []string
	pins    []*entry

	session  tnv.SessionID       // for whom the function runs; 0: for the owner itself
	wanted   []protocol.LeaseKey // leases that it asks for
	looked   []tnv.Ino           // directories at whose names it has looked
	recalled []protocol.LeaseKey // taken back for it, and not granted until it is done
	leased   protocol.Leased     // what it got, once it has succeeded
}

func (tx *Tx) begin(seq tnv.BatchSeq, now int64) {
	tx.seq, tx.now, tx.seen, tx.freed = seq, now, 0, 0
	clear(tx.local)
	clear(tx.ids)
	clear(tx.refs)
	tx.order, tx.raw, tx.after = tx.order[:0], tx.raw[:0], tx.after[:0]
	tx.missing, tx.lackIDs = tx.missing[:0], tx.lackIDs[:0]
	tx.wanted, tx.looked, tx.leased = tx.wanted[:0], tx.looked[:0], protocol.Leased{}
}

func (tx *Tx) missed() bool { return len(tx.missing)+len(tx.lackIDs) > 0 }
func (tx *Tx) wrote() bool  { return len(tx.order) > 0 }

func (tx *Tx) unpin() {
	if len(tx.pins) == 0 {
		return
	}
	tx.s.mu.Lock()
	defer tx.s.mu.Unlock()
	for _, e := range tx.pins {
		e.pins--
	}
	tx.pins = nil
}

// get returns a record, nil if there is none.
func (tx *Tx) get(key string) (any, error) {
	if v, ok := tx.local[key]; ok {
		return v, nil
	}
	if key[0] == keyDentry {
		tx.look(tnv.Ino(split1(key)))
	}
	e := tx.s.cache[key]
	if e == nil {
		tx.missing = append(tx.missing, key)
		return nil, errMiss
	}
	e.used.Store(true)
	tx.seen = max(tx.seen, e.seq)
	return e.val, nil
}

// want tells early what the function will get, so that all of it is fetched at once.
func (tx *Tx) want(keys ...string) error {
	var err error
	for _, k := range keys {
		if _, e := tx.get(k); e != nil {
			err = e
		}
	}
	return err
}

// getAs returns a record of type *T, nil if there is none.
func getAs[T any](tx *Tx, key string) (*T, error) {
	v, err := tx.get(key)
	if v == nil || err != nil {
		return nil, err
	}
	return v.(*T), nil
}

func (tx *Tx) put(key string, val any) {
	if !tx.writing {
		panic("meta: a read writes")
	}
	if tx.local == nil {
		tx.local = map[string]any{}
	}
	if _, ok := tx.local[key]; !ok {
		tx.order = append(tx.order, key)
	}
	tx.local[key] = val
}

// set writes a record. It must not change afterwards.
func (tx *Tx) set(key string, rec encoder) { tx.put(key, rec) }

// del deletes a record; one that does not exist as well.
func (tx *Tx) del(key string) { tx.put(key, nil) }

// then has fn called under the store's lock once the function has succeeded and
// its batch, if it wrote anything, is published.
func (tx *Tx) then(fn func()) { tx.after = append(tx.after, fn) }

func (tx *Tx) runAfter() {
	for _, fn := range tx.after {
		fn()
	}
}

// encode gives the stored form of all that was written.
func (tx *Tx) encode() []kv.Write {
	w := make([]kv.Write, 0, len(tx.order)+len(tx.raw))
	for _, key := range tx.order {
		if key[0] == keyChunk {
			continue // chunks write their stored keys themselves
		}
		var value []byte
		if v := tx.local[key]; v != nil {
			value = v.(encoder).encode()
		}
		w = append(w, kv.Write{Key: []byte(key), Value: value})
	}
	return append(w, tx.raw...)
}
