package httpd

import (
	"context"
	"net"
	"net/http"
	"time"

	"github.com/tnvfs/tnv/httpd/access"
	"github.com/tnvfs/tnv/protocol"
)

// status tells how the cluster and this daemon are.
func (h *handler) status(w *recorder, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), healthLimit)
	defer cancel()
	if w.who.Role("/") < access.Read && w.who.User == "" {
		h.denied(w, r)
		return
	}
	st, err := h.src.StatFS(ctx)
	if err != nil {
		h.unwell(w, r, err)
		return
	}
	now := time.Now()
	sent, received, requests := h.traffic.lastHour(now)
	out := map[string]any{
		"volume": map[string]any{"name": h.volume, "files": st.Files, "bytes": st.Bytes, "capacity_bytes": st.Capacity, "free_bytes": st.Free},
		"daemon": map[string]any{"started": h.traffic.began.UTC(), "connections": h.traffic.conns.Load(), "transfers": h.active.Load(),
			"requests": h.traffic.requests.Load(), "sent_bytes": h.traffic.sent.Load(), "received_bytes": h.traffic.receivedAll.Load(), "transcodes": h.hls.running()},
		"traffic": map[string]any{"step_seconds": int(trafficStep / time.Second), "sent": sent, "received": received, "requests": requests},
	}
	if h.maySeeAll(w, r) {
		all, err := h.src.Status(ctx)
		if err != nil {
			h.unwell(w, r, err)
			return
		}
		clusterStatus(out, &all)
		out["streams"] = h.traffic.now()
	}
	h.answer(w, http.StatusOK, out)
}

// maySeeAll tells whether somebody is told of the whole cluster: an admin, or,
// where there are no users, whoever sits at this machine.
func (h *handler) maySeeAll(w *recorder, r *http.Request) bool {
	if w.who.Role("/") >= access.Admin {
		return true
	}
	host, _, _ := net.SplitHostPort(r.RemoteAddr)
	ip := net.ParseIP(host)
	return !h.access.HasUsers() && ip != nil && ip.IsLoopback()
}

// clusterStatus adds what the tracker told.
func clusterStatus(out map[string]any, st *protocol.Status) {
	trackers, volumes, groups := []any{}, []any{}, []any{}
	for _, t := range st.Trackers {
		trackers = append(trackers, map[string]any{"addr": t.Addr, "alive": t.Alive, "engine": t.Engine})
	}
	for _, v := range st.Volumes {
		volumes = append(volumes, map[string]any{"id": v.ID, "name": v.Name, "owner": v.Owner, "epoch": v.Epoch, "files": v.Files, "bytes": v.Bytes,
			"sessions": v.Sessions, "pending_deletions": v.PendingDeletions, "unlinked": v.Unlinked})
	}
	for i := range st.Groups {
		g := &st.Groups[i]
		nodes := []any{}
		for _, n := range g.Nodes {
			nodes = append(nodes, map[string]any{"id": n.Node.ID.String(), "addr": n.Node.Addr, "host": n.Node.Host, "state": n.Node.State.String(),
				"used_bytes": n.Node.Used, "capacity_bytes": n.Node.Capacity, "blocks": n.Blocks, "behind_blocks": n.BehindBlocks,
				"behind_bytes": n.BehindBytes, "corrupt_blocks": n.CorruptBlocks, "mended_blocks": n.MendedBlocks, "last_beat_ms": n.LastBeatMs})
		}
		groups = append(groups, map[string]any{"id": g.ID, "name": g.Name, "state": g.State, "behind_blocks": g.BehindBlocks,
			"behind_bytes": g.BehindBytes, "nodes": nodes})
	}
	out["trackers"], out["volumes"], out["groups"] = trackers, volumes, groups
}
