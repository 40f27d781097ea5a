package wire

import (
	"fmt"

	pb "github.com/daybook/daybook/broker/wire/wirepb"
)

// A Type is the type of a command: its number in the protocol.
type Type uint8

// The types of commands.
const (
	TypeConnect                         Type = 2
	TypeConnected                       Type = 3
	TypeSubscribe                       Type = 4
	TypeProducer                        Type = 5
	TypeSend                            Type = 6
	TypeSendReceipt                     Type = 7
	TypeSendError                       Type = 8
	TypeMessage                         Type = 9
	TypeAck                             Type = 10
	TypeFlow                            Type = 11
	TypeUnsubscribe                     Type = 12
	TypeSuccess                         Type = 13
	TypeError                           Type = 14
	TypeCloseProducer                   Type = 15
	TypeCloseConsumer                   Type = 16
	TypeProducerSuccess                 Type = 17
	TypePing                            Type = 18
	TypePong                            Type = 19
	TypeRedeliverUnacknowledgedMessages Type = 20
	TypePartitionedMetadata             Type = 21
	TypePartitionedMetadataResponse     Type = 22
	TypeLookup                          Type = 23
	TypeLookupResponse                  Type = 24
	TypeConsumerStats                   Type = 25
	TypeConsumerStatsResponse           Type = 26
	TypeReachedEndOfTopic               Type = 27
	TypeSeek                            Type = 28
	TypeGetLastMessageId                Type = 29
	TypeGetLastMessageIdResponse        Type = 30
	TypeActiveConsumerChange            Type = 31
	TypeGetTopicsOfNamespace            Type = 32
	TypeGetTopicsOfNamespaceResponse    Type = 33
	TypeGetSchema                       Type = 34
	TypeGetSchemaResponse               Type = 35
	TypeAuthChallenge                   Type = 36
	TypeAuthResponse                    Type = 37
	TypeAckResponse                     Type = 38
	TypeGetOrCreateSchema               Type = 39
	TypeGetOrCreateSchemaResponse       Type = 40
	TypeNewTxn                          Type = 50
	TypeNewTxnResponse                  Type = 51
	TypeAddPartitionToTxn               Type = 52
	TypeAddPartitionToTxnResponse       Type = 53
	TypeAddSubscriptionToTxn            Type = 54
	TypeAddSubscriptionToTxnResponse    Type = 55
	TypeEndTxn                          Type = 56
	TypeEndTxnResponse                  Type = 57
	TypeEndTxnOnPartition               Type = 58
	TypeEndTxnOnPartitionResponse       Type = 59
	TypeEndTxnOnSubscription            Type = 60
	TypeEndTxnOnSubscriptionResponse    Type = 61
	TypeTcClientConnectRequest          Type = 62
	TypeTcClientConnectResponse         Type = 63
	TypeWatchTopicList                  Type = 64
	TypeWatchTopicListSuccess           Type = 65
	TypeWatchTopicUpdate                Type = 66
	TypeWatchTopicListClose             Type = 67
	TypeTopicMigrated                   Type = 68
)

// String is the protocol's name of the type.
func (t Type) String() string { return pb.BaseCommand_Type(t).String() }

// A Body is one of the generated commands, wirepb.Command….
type Body interface {
	SizeVT() int
	MarshalToSizedBufferVT([]byte) (int, error)
	UnmarshalVT([]byte) error
}

// A Command is one decoded command. Decoding into the same Command again reuses what it holds, so that the
// hot commands do not allocate.
type Command struct {
	Type Type
	// One of these is valid for the type of its name.
	Send    Send
	Receipt SendReceipt
	Message Message
	Ack     Ack
	Flow    Flow
	// Body is the command for all other types; it is new at each decoding. Nil for PING and PONG.
	Body Body
}

// Decode reads a serialized BaseCommand, the command part of a frame. Nothing in c aliases b. Fields that
// are not known are ignored; a type that is not known is ErrUnknownCommand; a missing required field, or a
// type without its command, is ErrMalformed.
func (c *Command) Decode(b []byte) error {
	c.Body = nil
	t, body, have, err := splitBase(b)
	if err != nil {
		return err
	}
	c.Type = t
	switch t {
	case TypePing, TypePong:
		return nil
	}
	if !have {
		return fmt.Errorf("%w: %v without its command", ErrMalformed, t)
	}
	switch t {
	case TypeSend:
		return c.Send.decode(body)
	case TypeSendReceipt:
		return c.Receipt.decode(body)
	case TypeMessage:
		return c.Message.decode(body)
	case TypeAck:
		return c.Ack.decode(body)
	case TypeFlow:
		return c.Flow.decode(body)
	}
	c.Body = newBody(t)
	if err := c.Body.UnmarshalVT(body); err != nil {
		return fmt.Errorf("%w: %v: %w", ErrMalformed, t, err)
	}
	return nil
}

// splitBase finds the type of a BaseCommand and the bytes of the command that belongs to it. A command that
// comes in several parts, which protobuf allows and no client does, is refused.
func splitBase(b []byte) (t Type, body []byte, have bool, err error) {
	all, typed := b, false
	var num uint64
	for len(b) > 0 {
		f, rest, err := next(b)
		if err != nil {
			return 0, nil, false, err
		}
		b = rest
		switch {
		case f.num == 1 && f.wire == wtVarint:
			num, typed = f.v, true
		case f.wire == wtBytes && typed && uint64(f.num) == num:
			if have {
				return 0, nil, false, fmt.Errorf("%w: two commands in one", ErrMalformed)
			}
			body, have = f.b, true
		}
	}
	if !typed {
		return 0, nil, false, errMissing("type of the command")
	}
	if num > 255 || !knownTypes[num] {
		return 0, nil, false, fmt.Errorf("%w: type %d", ErrUnknownCommand, num)
	}
	if t = Type(num); have || t == TypePing || t == TypePong {
		return t, body, have, nil
	}
	// The type came after the command.
	for b = all; len(b) > 0; {
		f, rest, _ := next(b)
		b = rest
		if f.wire == wtBytes && uint64(f.num) == num {
			if have {
				return 0, nil, false, fmt.Errorf("%w: two commands in one", ErrMalformed)
			}
			body, have = f.b, true
		}
	}
	return t, body, have, nil
}

// AppendFrame appends the simple frame of a command. It panics if a required field is not set, which is an
// error of the caller's code.
func AppendFrame(dst []byte, body Body) []byte {
	t := typeOf(body)
	size := body.SizeVT()
	dst = appendHead(dst, t, size, 0)
	n := len(dst)
	dst = append(dst, make([]byte, size)...)
	if _, err := body.MarshalToSizedBufferVT(dst[n:]); err != nil {
		panic(fmt.Sprintf("wire: encode %v: %v", t, err))
	}
	return dst
}

// AppendPing appends the frame of a PING.
func AppendPing(dst []byte) []byte { return appendHead(dst, TypePing, 0, 0) }

// AppendPong appends the frame of a PONG.
func AppendPong(dst []byte) []byte { return appendHead(dst, TypePong, 0, 0) }

// knownTypes are the types that the protocol has.
var knownTypes = func() (k [256]bool) {
	for t := range pb.BaseCommand_Type_name {
		k[t] = true
	}
	return k
}()

// newBody is an empty command of the type, which must be known.
func newBody(t Type) Body {
	switch t {
	case TypeConnect:
		return &pb.CommandConnect{}
	case TypeConnected:
		return &pb.CommandConnected{}
	case TypeSubscribe:
		return &pb.CommandSubscribe{}
	case TypeProducer:
		return &pb.CommandProducer{}
	case TypeSend:
		return &pb.CommandSend{}
	case TypeSendReceipt:
		return &pb.CommandSendReceipt{}
	case TypeSendError:
		return &pb.CommandSendError{}
	case TypeMessage:
		return &pb.CommandMessage{}
	case TypeAck:
		return &pb.CommandAck{}
	case TypeFlow:
		return &pb.CommandFlow{}
	case TypeUnsubscribe:
		return &pb.CommandUnsubscribe{}
	case TypeSuccess:
		return &pb.CommandSuccess{}
	case TypeError:
		return &pb.CommandError{}
	case TypeCloseProducer:
		return &pb.CommandCloseProducer{}
	case TypeCloseConsumer:
		return &pb.CommandCloseConsumer{}
	case TypeProducerSuccess:
		return &pb.CommandProducerSuccess{}
	case TypePing:
		return &pb.CommandPing{}
	case TypePong:
		return &pb.CommandPong{}
	case TypeRedeliverUnacknowledgedMessages:
		return &pb.CommandRedeliverUnacknowledgedMessages{}
	case TypePartitionedMetadata:
		return &pb.CommandPartitionedTopicMetadata{}
	case TypePartitionedMetadataResponse:
		return &pb.CommandPartitionedTopicMetadataResponse{}
	case TypeLookup:
		return &pb.CommandLookupTopic{}
	case TypeLookupResponse:
		return &pb.CommandLookupTopicResponse{}
	case TypeConsumerStats:
		return &pb.CommandConsumerStats{}
	case TypeConsumerStatsResponse:
		return &pb.CommandConsumerStatsResponse{}
	case TypeReachedEndOfTopic:
		return &pb.CommandReachedEndOfTopic{}
	case TypeSeek:
		return &pb.CommandSeek{}
	case TypeGetLastMessageId:
		return &pb.CommandGetLastMessageId{}
	case TypeGetLastMessageIdResponse:
		return &pb.CommandGetLastMessageIdResponse{}
	case TypeActiveConsumerChange:
		return &pb.CommandActiveConsumerChange{}
	case TypeGetTopicsOfNamespace:
		return &pb.CommandGetTopicsOfNamespace{}
	case TypeGetTopicsOfNamespaceResponse:
		return &pb.CommandGetTopicsOfNamespaceResponse{}
	case TypeGetSchema:
		return &pb.CommandGetSchema{}
	case TypeGetSchemaResponse:
		return &pb.CommandGetSchemaResponse{}
	case TypeAuthChallenge:
		return &pb.CommandAuthChallenge{}
	case TypeAuthResponse:
		return &pb.CommandAuthResponse{}
	case TypeAckResponse:
		return &pb.CommandAckResponse{}
	case TypeGetOrCreateSchema:
		return &pb.CommandGetOrCreateSchema{}
	case TypeGetOrCreateSchemaResponse:
		return &pb.CommandGetOrCreateSchemaResponse{}
	case TypeNewTxn:
		return &pb.CommandNewTxn{}
	case TypeNewTxnResponse:
		return &pb.CommandNewTxnResponse{}
	case TypeAddPartitionToTxn:
		return &pb.CommandAddPartitionToTxn{}
	case TypeAddPartitionToTxnResponse:
		return &pb.CommandAddPartitionToTxnResponse{}
	case TypeAddSubscriptionToTxn:
		return &pb.CommandAddSubscriptionToTxn{}
	case TypeAddSubscriptionToTxnResponse:
		return &pb.CommandAddSubscriptionToTxnResponse{}
	case TypeEndTxn:
		return &pb.CommandEndTxn{}
	case TypeEndTxnResponse:
		return &pb.CommandEndTxnResponse{}
	case TypeEndTxnOnPartition:
		return &pb.CommandEndTxnOnPartition{}
	case TypeEndTxnOnPartitionResponse:
		return &pb.CommandEndTxnOnPartitionResponse{}
	case TypeEndTxnOnSubscription:
		return &pb.CommandEndTxnOnSubscription{}
	case TypeEndTxnOnSubscriptionResponse:
		return &pb.CommandEndTxnOnSubscriptionResponse{}
	case TypeTcClientConnectRequest:
		return &pb.CommandTcClientConnectRequest{}
	case TypeTcClientConnectResponse:
		return &pb.CommandTcClientConnectResponse{}
	case TypeWatchTopicList:
		return &pb.CommandWatchTopicList{}
	case TypeWatchTopicListSuccess:
		return &pb.CommandWatchTopicListSuccess{}
	case TypeWatchTopicUpdate:
		return &pb.CommandWatchTopicUpdate{}
	case TypeWatchTopicListClose:
		return &pb.CommandWatchTopicListClose{}
	case TypeTopicMigrated:
		return &pb.CommandTopicMigrated{}
	}
	panic(fmt.Sprintf("wire: no command of type %d", t))
}

// typeOf is the inverse of newBody.
func typeOf(b Body) Type {
	switch b.(type) {
	case *pb.CommandConnect:
		return TypeConnect
	case *pb.CommandConnected:
		return TypeConnected
	case *pb.CommandSubscribe:
		return TypeSubscribe
	case *pb.CommandProducer:
		return TypeProducer
	case *pb.CommandSend:
		return TypeSend
	case *pb.CommandSendReceipt:
		return TypeSendReceipt
	case *pb.CommandSendError:
		return TypeSendError
	case *pb.CommandMessage:
		return TypeMessage
	case *pb.CommandAck:
		return TypeAck
	case *pb.CommandFlow:
		return TypeFlow
	case *pb.CommandUnsubscribe:
		return TypeUnsubscribe
	case *pb.CommandSuccess:
		return TypeSuccess
	case *pb.CommandError:
		return TypeError
	case *pb.CommandCloseProducer:
		return TypeCloseProducer
	case *pb.CommandCloseConsumer:
		return TypeCloseConsumer
	case *pb.CommandProducerSuccess:
		return TypeProducerSuccess
	case *pb.CommandPing:
		return TypePing
	case *pb.CommandPong:
		return TypePong
	case *pb.CommandRedeliverUnacknowledgedMessages:
		return TypeRedeliverUnacknowledgedMessages
	case *pb.CommandPartitionedTopicMetadata:
		return TypePartitionedMetadata
	case *pb.CommandPartitionedTopicMetadataResponse:
		return TypePartitionedMetadataResponse
	case *pb.CommandLookupTopic:
		return TypeLookup
	case *pb.CommandLookupTopicResponse:
		return TypeLookupResponse
	case *pb.CommandConsumerStats:
		return TypeConsumerStats
	case *pb.CommandConsumerStatsResponse:
		return TypeConsumerStatsResponse
	case *pb.CommandReachedEndOfTopic:
		return TypeReachedEndOfTopic
	case *pb.CommandSeek:
		return TypeSeek
	case *pb.CommandGetLastMessageId:
		return TypeGetLastMessageId
	case *pb.CommandGetLastMessageIdResponse:
		return TypeGetLastMessageIdResponse
	case *pb.CommandActiveConsumerChange:
		return TypeActiveConsumerChange
	case *pb.CommandGetTopicsOfNamespace:
		return TypeGetTopicsOfNamespace
	case *pb.CommandGetTopicsOfNamespaceResponse:
		return TypeGetTopicsOfNamespaceResponse
	case *pb.CommandGetSchema:
		return TypeGetSchema
	case *pb.CommandGetSchemaResponse:
		return TypeGetSchemaResponse
	case *pb.CommandAuthChallenge:
		return TypeAuthChallenge
	case *pb.CommandAuthResponse:
		return TypeAuthResponse
	case *pb.CommandAckResponse:
		return TypeAckResponse
	case *pb.CommandGetOrCreateSchema:
		return TypeGetOrCreateSchema
	case *pb.CommandGetOrCreateSchemaResponse:
		return TypeGetOrCreateSchemaResponse
	case *pb.CommandNewTxn:
		return TypeNewTxn
	case *pb.CommandNewTxnResponse:
		return TypeNewTxnResponse
	case *pb.CommandAddPartitionToTxn:
		return TypeAddPartitionToTxn
	case *pb.CommandAddPartitionToTxnResponse:
		return TypeAddPartitionToTxnResponse
	case *pb.CommandAddSubscriptionToTxn:
		return TypeAddSubscriptionToTxn
	case *pb.CommandAddSubscriptionToTxnResponse:
		return TypeAddSubscriptionToTxnResponse
	case *pb.CommandEndTxn:
		return TypeEndTxn
	case *pb.CommandEndTxnResponse:
		return TypeEndTxnResponse
	case *pb.CommandEndTxnOnPartition:
		return TypeEndTxnOnPartition
	case *pb.CommandEndTxnOnPartitionResponse:
		return TypeEndTxnOnPartitionResponse
	case *pb.CommandEndTxnOnSubscription:
		return TypeEndTxnOnSubscription
	case *pb.CommandEndTxnOnSubscriptionResponse:
		return TypeEndTxnOnSubscriptionResponse
	case *pb.CommandTcClientConnectRequest:
		return TypeTcClientConnectRequest
	case *pb.CommandTcClientConnectResponse:
		return TypeTcClientConnectResponse
	case *pb.CommandWatchTopicList:
		return TypeWatchTopicList
	case *pb.CommandWatchTopicListSuccess:
		return TypeWatchTopicListSuccess
	case *pb.CommandWatchTopicUpdate:
		return TypeWatchTopicUpdate
	case *pb.CommandWatchTopicListClose:
		return TypeWatchTopicListClose
	case *pb.CommandTopicMigrated:
		return TypeTopicMigrated
	}
	panic(fmt.Sprintf("wire: %T is no command", b))
}
