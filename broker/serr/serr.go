// Package serr is the broker's one error type: a failure with its wire code, its HTTP status, a text for
// the client and, apart from that text, the cause for the log.
//
// A layer that knows what a failure means to a client makes an Error once, at the place where it is known:
//
//	return serr.ServiceNotReady.Wrapf(err, "ledger %d is recovering", id)
//
// The edges (the connection, the admin API) call From once and send Code or Status with Text. Callers in
// between compare with errors.Is(err, serr.ServiceNotReady) and wrap with %w as usual.
package serr

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/raftmeta"
)

// A Code is a ServerError of the Pulsar protocol. It is itself an error, so that errors.Is(err, code) asks
// whether err is an Error with that code.
type Code int32

// The codes of the protocol.
const (
	UnknownError                          Code = 0
	MetadataError                         Code = 1
	PersistenceError                      Code = 2
	AuthenticationError                   Code = 3
	AuthorizationError                    Code = 4
	ConsumerBusy                          Code = 5
	ServiceNotReady                       Code = 6
	ProducerBlockedQuotaExceededError     Code = 7
	ProducerBlockedQuotaExceededException Code = 8
	ChecksumError                         Code = 9
	UnsupportedVersionError               Code = 10
	TopicNotFound                         Code = 11
	SubscriptionNotFound                  Code = 12
	ConsumerNotFound                      Code = 13
	TooManyRequests                       Code = 14
	TopicTerminatedError                  Code = 15
	ProducerBusy                          Code = 16
	InvalidTopicName                      Code = 17
	IncompatibleSchema                    Code = 18
	ConsumerAssignError                   Code = 19
	TransactionCoordinatorNotFound        Code = 20
	InvalidTxnStatus                      Code = 21
	NotAllowedError                       Code = 22
	TransactionConflict                   Code = 23
	TransactionNotFound                   Code = 24
	ProducerFenced                        Code = 25
)

// table is indexed by Code. A status is what Pulsar's REST API answers for the same failure where it has
// one; where it answers differently by resource, the resource says so with WithStatus.
var table = [...]struct {
	name   string
	status int
}{
	UnknownError:                          {"UnknownError", http.StatusInternalServerError},
	MetadataError:                         {"MetadataError", http.StatusInternalServerError},
	PersistenceError:                      {"PersistenceError", http.StatusInternalServerError},
	AuthenticationError:                   {"AuthenticationError", http.StatusUnauthorized},
	AuthorizationError:                    {"AuthorizationError", http.StatusForbidden},
	ConsumerBusy:                          {"ConsumerBusy", http.StatusPreconditionFailed},
	ServiceNotReady:                       {"ServiceNotReady", http.StatusServiceUnavailable},
	ProducerBlockedQuotaExceededError:     {"ProducerBlockedQuotaExceededError", http.StatusPreconditionFailed},
	ProducerBlockedQuotaExceededException: {"ProducerBlockedQuotaExceededException", http.StatusPreconditionFailed},
	ChecksumError:                         {"ChecksumError", http.StatusBadRequest},
	UnsupportedVersionError:               {"UnsupportedVersionError", http.StatusNotImplemented},
	TopicNotFound:                         {"TopicNotFound", http.StatusNotFound},
	SubscriptionNotFound:                  {"SubscriptionNotFound", http.StatusNotFound},
	ConsumerNotFound:                      {"ConsumerNotFound", http.StatusNotFound},
	TooManyRequests:                       {"TooManyRequests", http.StatusTooManyRequests},
	TopicTerminatedError:                  {"TopicTerminatedError", http.StatusConflict},
	ProducerBusy:                          {"ProducerBusy", http.StatusConflict},
	InvalidTopicName:                      {"InvalidTopicName", http.StatusPreconditionFailed},
	IncompatibleSchema:                    {"IncompatibleSchema", http.StatusConflict},
	ConsumerAssignError:                   {"ConsumerAssignError", http.StatusConflict},
	TransactionCoordinatorNotFound:        {"TransactionCoordinatorNotFound", http.StatusNotFound},
	InvalidTxnStatus:                      {"InvalidTxnStatus", http.StatusConflict},
	NotAllowedError:                       {"NotAllowedError", http.StatusConflict},
	TransactionConflict:                   {"TransactionConflict", http.StatusConflict},
	TransactionNotFound:                   {"TransactionNotFound", http.StatusNotFound},
	ProducerFenced:                        {"ProducerFenced", http.StatusConflict},
}

// String is the protocol's name of the code, or its number if it has none.
func (c Code) String() string {
	if c < 0 || int(c) >= len(table) {
		return "ServerError(" + strconv.Itoa(int(c)) + ")"
	}
	return table[c].name
}

// Error is String: it makes a bare Code usable as an error and as the target of errors.Is.
func (c Code) Error() string { return c.String() }

// Status is the HTTP status of the code; 500 for codes that the protocol does not know.
func (c Code) Status() int {
	if c < 0 || int(c) >= len(table) {
		return http.StatusInternalServerError
	}
	return table[c].status
}

// Retriable reports whether the protocol's clients try again by themselves after the code.
func (c Code) Retriable() bool {
	switch c {
	case UnknownError, MetadataError, PersistenceError, ServiceNotReady, TooManyRequests:
		return true
	}
	return false
}

// Errorf makes an Error without a cause. The text is meant for the client.
func (c Code) Errorf(format string, args ...any) *Error {
	return &Error{Code: c, Status: c.Status(), Text: fmt.Sprintf(format, args...)}
}

// Wrapf makes an Error with a cause, which goes to the log and not to the client.
func (c Code) Wrapf(cause error, format string, args ...any) *Error {
	return &Error{Code: c, Status: c.Status(), Text: fmt.Sprintf(format, args...), Cause: cause}
}

// An Error is a failure as a client gets to know it. Errors are values: they are not changed once made.
type Error struct {
	Code   Code
	Status int    // HTTP
	Text   string // for the client
	Cause  error  // for the log; may be nil
}

// Error is the text with the code and the cause: what the log shows. Clients get Text.
func (e *Error) Error() string {
	s := e.Code.String() + ": " + e.Text
	if e.Cause != nil {
		s += ": " + e.Cause.Error()
	}
	return s
}

// Unwrap is the cause.
func (e *Error) Unwrap() error { return e.Cause }

// Is reports whether target is the Code of e.
func (e *Error) Is(target error) bool {
	c, ok := target.(Code)
	return ok && c == e.Code
}

// WithStatus is e with another HTTP status, for resources that differ from the table.
func (e *Error) WithStatus(status int) *Error {
	d := *e
	d.Status = status
	return &d
}

// From is the Error that an edge reports for err: the first Error in err's chain, else one made for it by
// what it is. From(nil) is nil.
func From(err error) *Error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	if c, ok := errors.AsType[Code](err); ok {
		return c.Wrapf(err, "%s", err.Error())
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return ServiceNotReady.Wrapf(err, "the request took too long")
	case errors.Is(err, context.Canceled):
		return ServiceNotReady.Wrapf(err, "the request was given up: the broker is shutting down")
	case errors.Is(err, ledgerfs.ErrNoSpace), errors.Is(err, raftmeta.ErrNoSpace):
		return PersistenceError.Wrapf(err, "out of space")
	case errors.Is(err, ledgerfs.ErrTooManyRequests):
		return TooManyRequests.Wrapf(err, "storage has too many requests in flight")
	case errors.Is(err, ledgerfs.ErrFenced):
		return ServiceNotReady.Wrapf(err, "the topic has moved to another broker")
	case errors.Is(err, raftmeta.ErrUnavailable), errors.Is(err, raftmeta.ErrClosed):
		return ServiceNotReady.Wrapf(err, "metadata is not available")
	}
	if _, ok := errors.AsType[*ledgerfs.Error](err); ok {
		return PersistenceError.Wrapf(err, "%s", err.Error())
	}
	return UnknownError.Wrapf(err, "%s", err.Error())
}
