// Package httpd serves the files of a volume over HTTP, by path, for reading.
//
// It promises: a response's bytes are those of the version that its ETag names,
// up to the length that its headers say, or the connection is cut. Nothing outside
// of the volume can be named. Conditional requests and ranges work as RFC 9110
// says, so that players seek and resume, and caches revalidate. A reader that goes
// away costs nothing from then on; one that reads nothing is cut off; and whatever
// readers do, memory stays bounded: connections, buffers, ranges per request,
// headers and listings are limited.
//
// GET, HEAD and OPTIONS are answered; all else is 405. A directory without a
// slash at its end redirects to one with it, and answers with a plain listing.
// Symbolic links are followed within the volume. Devices, pipes and sockets are
// 403. While the cluster does not answer, requests are 503 with Retry-After.
//
// The daemon's own pages are below /.tnv/: healthz, and status as JSON.
//
// The way of a request: handler.go takes the path apart (path.go) and resolves it
// in one round trip; content.go opens the file and hands it to
// http.ServeContent, which knows conditions and ranges, with a writer that moves
// large pieces; listing.go writes a directory's page.
package httpd
