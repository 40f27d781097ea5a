package filetree

import (
	"context"
	"errors"
)

// An Errno is the POSIX name of a failure, the only kind of error that leaves the tree: over HTTP as text, at
// the mount as a number. Errors of this package wrap one; compare with errors.Is. Implementations of Topics and
// Publisher wrap the one that fits; any other error of theirs becomes EIO.
type Errno string

// The failures that the tree knows, and when it answers with each.
const (
	EACCES     Errno = "EACCES"     // not authorised
	EAGAIN     Errno = "EAGAIN"     // would block, or the server is not ready yet
	ECANCELED  Errno = "ECANCELED"  // the caller gave up
	EDQUOT     Errno = "EDQUOT"     // backlog quota exceeded
	EEXIST     Errno = "EEXIST"     // exists already
	EFBIG      Errno = "EFBIG"      // a request beyond the service's limits
	EILSEQ     Errno = "EILSEQ"     // refused by the topic's schema
	EINVAL     Errno = "EINVAL"     // malformed request
	EIO        Errno = "EIO"        // definite failure of any other kind
	EISDIR     Errno = "EISDIR"     // a file was wanted
	EMSGSIZE   Errno = "EMSGSIZE"   // record above the broker's maximum message size
	ENOENT     Errno = "ENOENT"     // no such name
	ENOSPC     Errno = "ENOSPC"     // no bookie takes writes
	ENOTCONN   Errno = "ENOTCONN"   // the server cannot be reached
	ENOTDIR    Errno = "ENOTDIR"    // a directory was wanted
	EOPNOTSUPP Errno = "EOPNOTSUPP" // not offered by this face
	EPERM      Errno = "EPERM"      // never allowed on a topic: overwriting, truncating, renaming, …
	EPROTO     Errno = "EPROTO"     // the peer speaks no version of the service that we know
	EROFS      Errno = "EROFS"      // terminated or read-only topic
	ESTALE     Errno = "ESTALE"     // trimmed, or another topic has this name now
	ETIMEDOUT  Errno = "ETIMEDOUT"  // outcome unknown: the deadline passed first
)

// Error is the text that programs print for the errno.
func (e Errno) Error() string {
	if t, ok := errnoText[e]; ok {
		return t
	}
	return string(e)
}

var errnoText = map[Errno]string{
	EACCES:     "permission denied",
	EAGAIN:     "resource temporarily unavailable",
	ECANCELED:  "operation canceled",
	EDQUOT:     "disk quota exceeded",
	EEXIST:     "file exists",
	EFBIG:      "request too large",
	EILSEQ:     "refused by the schema",
	EINVAL:     "invalid argument",
	EIO:        "input/output error",
	EISDIR:     "is a directory",
	EMSGSIZE:   "message too long",
	ENOENT:     "no such file or directory",
	ENOSPC:     "no space left on device",
	ENOTCONN:   "server cannot be reached",
	ENOTDIR:    "not a directory",
	EOPNOTSUPP: "operation not supported",
	EPERM:      "operation not permitted",
	EPROTO:     "protocol version not supported",
	EROFS:      "read-only topic",
	ESTALE:     "stale file handle",
	ETIMEDOUT:  "timed out",
}

// ErrnoOf is the one place where errors become Errnos: the Errno that err wraps; ETIMEDOUT and ECANCELED for
// the errors of contexts; EIO for anything else; "" for nil.
func ErrnoOf(err error) Errno {
	if err == nil {
		return ""
	}
	if e, ok := errors.AsType[Errno](err); ok {
		return e
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return ETIMEDOUT
	case errors.Is(err, context.Canceled):
		return ECANCELED
	}
	return EIO
}

// known reports whether e is one of the constants above: what arrives from a peer is checked with it.
func (e Errno) known() bool { _, ok := errnoText[e]; return ok }
