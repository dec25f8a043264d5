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
// Whoever asks gets what his role at the path gives him (package access); what he may
// not see is as if it were not there. A change is whole or not there: a file that is
// received gets its name when it is complete, what is deleted can be put back for a
// while. Volumes can be changed as WebDAV and by the JSON interface of docs/openapi.yaml.
//
// A directory without a slash at its end redirects to one with it, and answers with
// a page or a plain listing. Symbolic links are followed within the volume. Devices,
// pipes and sockets are 403. While the cluster does not answer, requests are 503 with
// Retry-After. The daemon's own pages are below /.tnv/.
//
// The way of a request is told in docs/ARCHITECTURE.md.
package httpd
