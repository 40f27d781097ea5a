package filetree

// Evict forgets what is idle now, for tests.
func (t *Tree) Evict() { t.evict() }
