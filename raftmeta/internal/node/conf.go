package node

import (
	"go.etcd.io/raft/v3/raftpb"

	"github.com/daybook/daybook/raftmeta/internal/metapb"
)

// ConfToPB returns the stored form of the members.
func ConfToPB(c *raftpb.ConfState) *metapb.ConfState {
	return &metapb.ConfState{
		Voters: c.Voters, Learners: c.Learners, VotersOutgoing: c.VotersOutgoing, LearnersNext: c.LearnersNext,
		AutoLeave: c.GetAutoLeave(),
	}
}

// ConfFromPB returns Raft's form of the members.
func ConfFromPB(c *metapb.ConfState) *raftpb.ConfState {
	return &raftpb.ConfState{
		Voters: c.GetVoters(), Learners: c.GetLearners(), VotersOutgoing: c.GetVotersOutgoing(), LearnersNext: c.GetLearnersNext(),
		AutoLeave: new(c.GetAutoLeave()),
	}
}
