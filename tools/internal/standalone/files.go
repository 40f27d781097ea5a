package standalone

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/daybook/daybook/broker/serr"
	"github.com/daybook/daybook/broker/server"
	"github.com/daybook/daybook/ledgerfs"
	"github.com/daybook/daybook/ledgerfs/chain"
	"github.com/daybook/daybook/ledgerfs/filetree"
	"github.com/daybook/daybook/ledgerfs/mledger"
	"github.com/daybook/daybook/ledgerfs/topicname"
	"github.com/daybook/daybook/ledgerfs/topicread"
)

// treeTopics shows the broker's topics to the file tree.
type treeTopics struct{ broker *server.Server }

func (t treeTopics) Tenants(ctx context.Context) ([]string, error) {
	names, err := t.broker.Tenants(ctx)
	return names, asErrno(err)
}

func (t treeTopics) Namespaces(ctx context.Context, tenant string) ([]string, error) {
	tenants, err := t.broker.Tenants(ctx)
	if err != nil {
		return nil, asErrno(err)
	}
	found := false
	for _, name := range tenants {
		found = found || name == tenant
	}
	if !found {
		return nil, fmt.Errorf("tenant %s: %w", tenant, filetree.ENOENT)
	}
	nss, err := t.broker.Namespaces(ctx, tenant)
	if err != nil {
		return nil, asErrno(err)
	}
	names := make([]string, len(nss))
	for i, ns := range nss {
		names[i] = ns.Local
	}
	return names, nil
}

func (t treeTopics) Topics(ctx context.Context, tenant, namespace string) ([]string, error) {
	ns, err := topicname.MakeNamespace(tenant, namespace)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, filetree.ENOENT)
	}
	topics, err := t.broker.StoredTopics(ctx, ns)
	if err != nil {
		return nil, asErrno(err)
	}
	names := make([]string, 0, len(topics))
	for _, n := range topics {
		if n.Domain == topicname.Persistent {
			names = append(names, n.Local)
		}
	}
	return names, nil
}

func (t treeTopics) Open(ctx context.Context, name topicname.Name) (filetree.Topic, error) {
	l, err := t.broker.Ledger(ctx, name)
	if err != nil {
		return nil, asErrno(err)
	}
	return &treeTopic{broker: t.broker, name: name, incarnation: l.Incarnation()}, nil
}

func (t treeTopics) Create(ctx context.Context, name topicname.Name) error {
	return asErrno(t.broker.CreateTopic(ctx, name))
}

// A treeTopic follows one life of a topic over unloads: each call finds the managed ledger that is loaded
// now, and the listeners move with it.
type treeTopic struct {
	broker      *server.Server
	name        topicname.Name
	incarnation chain.Incarnation

	// follow guards which ledger is listened to; notify guards who wants to know. follow is taken before notify,
	// and the listener itself takes only notify, since ledgers call it from their own goroutines.
	follow struct {
		sync.Mutex
		ledger *mledger.Ledger
	}
	notify struct {
		sync.Mutex
		fns map[*notification]struct{}
	}
}

type notification struct{ fn func() }

func (t *treeTopic) Incarnation() chain.Incarnation { return t.incarnation }

// ledger is the loaded managed ledger, with the listener on it if there are notifications.
func (t *treeTopic) ledger(ctx context.Context) (*mledger.Ledger, error) {
	l, err := t.broker.Ledger(ctx, t.name)
	if err != nil {
		return nil, asErrno(err)
	}
	if l.Incarnation() != t.incarnation {
		return nil, fmt.Errorf("%s was deleted and made anew: %w", t.name, filetree.ESTALE)
	}
	t.listen(l)
	return l, nil
}

// listen moves the listener to l, or takes it away if nobody wants to know.
func (t *treeTopic) listen(l *mledger.Ledger) {
	t.follow.Lock()
	defer t.follow.Unlock()
	t.notify.Lock()
	if len(t.notify.fns) == 0 {
		l = nil
	}
	t.notify.Unlock()
	if l == t.follow.ledger {
		return
	}
	if t.follow.ledger != nil {
		t.follow.ledger.Unlisten(t)
	}
	if t.follow.ledger = l; l != nil {
		l.Listen(t)
	}
}

// Grown implements mledger.Listener. Closing is reported too; then the next Fence loads the topic again.
func (t *treeTopic) Grown(*mledger.Ledger) {
	t.notify.Lock()
	fns := make([]func(), 0, len(t.notify.fns))
	for n := range t.notify.fns {
		fns = append(fns, n.fn)
	}
	t.notify.Unlock()
	for _, fn := range fns {
		fn()
	}
}

func (t *treeTopic) Fence(ctx context.Context) (chain.Fence, error) {
	l, err := t.ledger(ctx)
	if err != nil {
		return chain.Fence{}, err
	}
	return l.Fence(), nil
}

func (t *treeTopic) Notify(fn func()) (stop func()) {
	n := &notification{fn}
	t.notify.Lock()
	if t.notify.fns == nil {
		t.notify.fns = map[*notification]struct{}{}
	}
	t.notify.fns[n] = struct{}{}
	t.notify.Unlock()
	fn() // the Fence that follows begins to listen
	return func() {
		t.notify.Lock()
		delete(t.notify.fns, n)
		last := len(t.notify.fns) == 0
		t.notify.Unlock()
		if last {
			t.listen(nil)
		}
	}
}

func (t *treeTopic) SetText(ctx context.Context, id ledgerfs.LedgerID, renderVersion uint32, text [chain.NumViews]chain.Text) error {
	l, err := t.ledger(ctx)
	if err != nil {
		return err
	}
	return l.SetText(ctx, id, renderVersion, text)
}

func (t *treeTopic) Close() {
	t.notify.Lock()
	t.notify.fns = nil
	t.notify.Unlock()
	t.listen(nil)
}

// asErrno marks an error of the broker with the errno that the file tree answers.
func asErrno(err error) error {
	if err == nil {
		return nil
	}
	e := filetree.EIO
	switch {
	case errors.Is(err, topicread.ErrNotFound), errors.Is(err, serr.TopicNotFound):
		e = filetree.ENOENT
	case errors.Is(err, serr.AuthorizationError), errors.Is(err, serr.AuthenticationError):
		e = filetree.EACCES
	case errors.Is(err, serr.NotAllowedError):
		e = filetree.EPERM
	case errors.Is(err, serr.InvalidTopicName):
		e = filetree.EINVAL
	case errors.Is(err, serr.ServiceNotReady):
		e = filetree.EAGAIN
	case errors.Is(err, serr.TopicTerminatedError):
		e = filetree.EROFS
	case errors.Is(err, serr.ProducerBlockedQuotaExceededError), errors.Is(err, serr.ProducerBlockedQuotaExceededException):
		e = filetree.EDQUOT
	case errors.Is(err, serr.IncompatibleSchema):
		e = filetree.EILSEQ
	case errors.Is(err, serr.PersistenceError):
		e = filetree.ENOSPC
	case errors.Is(err, context.DeadlineExceeded):
		e = filetree.ETIMEDOUT
	case errors.Is(err, context.Canceled):
		e = filetree.ECANCELED
	}
	return fmt.Errorf("%w: %w", err, e)
}
