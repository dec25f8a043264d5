package client

import (
	"context"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

type fakeBlock struct {
	meta   protocol.BlockMeta
	data   []byte
	boot   tnv.BootID // in which it was taken: a sync is for those of its own boot
	synced bool
}

// fakeStore is a storage daemon in memory.
type fakeStore struct {
	f     *fakeCluster
	id    tnv.NodeID
	group tnv.GroupID
	srv   *protocol.Server
	pool  *protocol.Pool
	addr  string

	mu      sync.Mutex
	state   tnv.NodeState
	boot    tnv.BootID
	shown   tnv.BootID // not 0: the boot that the tracker knows of
	used    uint64
	version uint64 // of its entry in the map
	blocks  map[tnv.BlockKey]*fakeBlock
	repairs []tnv.BlockKey
	gets    int
	syncs   int
	puts    int
	corrupt bool
	frozen  chan struct{} // not nil: requests wait until it is closed
	refuse  func(t protocol.Type) error
	slow    time.Duration
}

func (s *fakeStore) start(addr string) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		s.f.t.Fatal(err)
	}
	s.addr = ln.Addr().String()
	s.srv = &protocol.Server{Endpoint: &protocol.Endpoint{Key: s.f.key, Role: protocol.RoleStore}, Log: quiet(), Block: s.block}
	s.mu.Lock()
	s.state = tnv.NodeAlive
	s.version++
	s.mu.Unlock()
	go s.srv.Serve(ln)
}

// kill stops the daemon; what it did not sync is lost with lose.
func (s *fakeStore) kill() {
	s.thaw()
	s.srv.Close()
}

// seen sets what the tracker thinks of it.
func (s *fakeStore) seen(st tnv.NodeState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state = st
	s.version++
}

// restart begins a new boot, without the blocks that were not synced.
func (s *fakeStore) restart(lose bool) {
	s.kill()
	s.mu.Lock()
	s.boot++
	for k, b := range s.blocks {
		if lose && !b.synced {
			delete(s.blocks, k)
		}
	}
	s.mu.Unlock()
	s.start(s.addr)
}

func (s *fakeStore) freeze() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.frozen == nil {
		s.frozen = make(chan struct{})
	}
}

func (s *fakeStore) thaw() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.frozen != nil {
		close(s.frozen)
		s.frozen = nil
	}
}

func (s *fakeStore) block(ctx context.Context, p *protocol.Peer, f *protocol.Frame) error {
	w := p.Wire()
	s.mu.Lock()
	frozen, refuse, slow := s.frozen, s.refuse, s.slow
	s.mu.Unlock()
	if frozen != nil {
		<-frozen
	}
	time.Sleep(slow)
	if refuse != nil {
		if err := refuse(f.Type); err != nil {
			return w.WriteReply(f, err, nil)
		}
	}
	switch f.Type {
	case protocol.TypePut:
		return s.put(w, f)
	case protocol.TypeGet:
		return s.get(w, f)
	case protocol.TypeSync:
		var rq protocol.Sync
		if err := f.Decode(&rq); err != nil {
			return w.WriteReply(f, err, nil)
		}
		s.mu.Lock()
		s.syncs++
		rep := protocol.SyncReply{Node: s.id, Boot: s.boot}
		for _, b := range s.blocks {
			b.synced = b.synced || b.boot == s.boot
		}
		for _, k := range rq.Blocks {
			if s.blocks[k] == nil {
				rep.Missing = append(rep.Missing, k)
			}
		}
		s.mu.Unlock()
		return w.WriteReply(f, nil, []any{&rep})
	case protocol.TypeRepair:
		var rq protocol.Repair
		err := f.Decode(&rq)
		s.mu.Lock()
		s.repairs = append(s.repairs, rq.Key)
		s.mu.Unlock()
		return w.WriteReply(f, err, nil)
	}
	return w.WriteReply(f, tnv.E("store", tnv.KindNotSupported, ""), nil)
}

func (s *fakeStore) put(w *protocol.Wire, f *protocol.Frame) error {
	var rq protocol.Put
	if err := f.Decode(&rq); err != nil {
		return w.WriteReply(f, err, nil)
	}
	data := make([]byte, rq.Block.Len)
	if err := w.ReadPayload(data); err != nil {
		return err
	}
	if protocol.Verify(rq.Block.Key, rq.Block.Unit, 0, data, rq.Block.Sums) >= 0 || rq.Block.Check() != nil {
		s.f.t.Errorf("block %v came with wrong checksums", rq.Block.Key)
		return w.WriteReply(f, tnv.E("put", tnv.KindCorrupt, ""), nil)
	}
	s.mu.Lock()
	if old := s.blocks[rq.Block.Key]; old != nil && !slices.Equal(old.meta.Sums, rq.Block.Sums) {
		s.f.t.Errorf("block %v put twice with different bytes", rq.Block.Key)
	}
	s.blocks[rq.Block.Key] = &fakeBlock{meta: rq.Block, data: data, boot: s.boot, synced: rq.Sync}
	s.puts++
	rep := protocol.PutReply{Holders: []tnv.Holder{{Node: s.id, Boot: s.boot}}}
	s.mu.Unlock()
	if len(rq.Chain) > 0 {
		next := protocol.Put{Block: rq.Block, Sync: rq.Sync, Chain: rq.Chain[1:]}
		var more protocol.PutReply
		ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
		err := s.pool.Do(ctx, rq.Chain[0].Addr, func(w *protocol.Wire) (bool, error) {
			if err := w.WriteFrame(protocol.TypePut, 0, 0, []any{&next}, data); err != nil {
				return false, err
			}
			f, err := w.ReadFrame()
			if err != nil {
				return false, err
			}
			return true, f.Decode(&more)
		})
		cancel()
		if err == nil {
			rep.Holders = append(rep.Holders, more.Holders...)
		}
	}
	return w.WriteReply(f, nil, []any{&rep})
}

func (s *fakeStore) get(w *protocol.Wire, f *protocol.Frame) error {
	var rq protocol.Get
	if err := f.Decode(&rq); err != nil {
		return w.WriteReply(f, err, nil)
	}
	s.mu.Lock()
	b, corrupt := s.blocks[rq.Key], s.corrupt
	s.gets++
	s.mu.Unlock()
	if b == nil {
		return w.WriteReply(f, tnv.E("get", tnv.KindMissing, "%v", rq.Key), nil)
	}
	u := b.meta.Unit
	lo := rq.Off / u * u
	hi := min((rq.Off+rq.Len+u-1)/u*u, b.meta.Len)
	rep := protocol.GetReply{Block: b.meta, Off: lo}
	rep.Block.Sums = b.meta.Sums[lo/u : int(lo/u)+protocol.Units(hi-lo, u)]
	data := b.data[lo:hi]
	if corrupt {
		data = slices.Clone(data)
		data[len(data)/2] ^= 0x10
	}
	return w.WriteReply(f, nil, []any{&rep}, data)
}
