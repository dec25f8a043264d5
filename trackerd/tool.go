package trackerd

import (
	"context"

	"github.com/tnvfs/tnv"
	"github.com/tnvfs/tnv/protocol"
)

// toolRequest answers what only the operator's tool may ask; handled is false
// for everything else.
func (t *tracker) toolRequest(ctx context.Context, p *protocol.Peer, f *protocol.Frame) (values []any, handled bool, err error) {
	var answer func() ([]any, error)
	switch f.Type {
	case protocol.TypeCollect:
		answer = func() ([]any, error) { return reply(ctx, f, t.collect) }
	case protocol.TypeCreateVolume, protocol.TypeListVolumes, protocol.TypeDeleteVolume, protocol.TypeUndeleteVolume,
		protocol.TypeRenameVolume, protocol.TypeSetVolume:
		answer = func() ([]any, error) { return t.volumeRequest(ctx, f) }
	case protocol.TypeFsck:
		answer = func() ([]any, error) { return reply(ctx, f, t.fsck) }
	case protocol.TypeGroupDrain:
		answer = func() ([]any, error) { return reply(ctx, f, t.drainGroup) }
	case protocol.TypeMoves:
		answer = func() ([]any, error) { return reply(ctx, f, t.moves) }
	case protocol.TypeNodeRemove:
		answer = func() ([]any, error) { return reply(ctx, f, t.removeNode) }
	case protocol.TypeBalance:
		answer = func() ([]any, error) { return reply(ctx, f, t.balance) }
	default:
		return nil, false, nil
	}
	if p.Role != protocol.RoleTool {
		return nil, true, tnv.E("request", tnv.KindNotPermitted, "type %d from a %s", f.Type, p.Role)
	}
	values, err = answer()
	return values, true, err
}
