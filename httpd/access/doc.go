// Package access decides who may do what over HTTP.
//
// It promises: who is let in has proven it (a bcrypt hash in an htpasswd file, a
// token of which only the digest is kept, a cookie or a link with this cluster's
// signature), what he may do at a path is what the longest rule that matches
// says, and a proof that is wrong or over is worth as little as none. Guessing costs
// time: few hashes are computed at once, and an address that was wrong often waits.
//
// Files are read anew when they change. A change of a password ends the
// sessions that were begun with the old one.
package access
