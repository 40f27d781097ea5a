package schema_test

import (
	"encoding/binary"
	"fmt"

	"github.com/daybook/daybook/ledgerfs/schema"
)

func Example() {
	s := schema.Info{
		Type: schema.KeyValue,
		Data: schema.AppendKeyValue(nil, []byte{}, []byte{}), // the definitions of STRING and INT32 are empty
		Properties: map[string]string{
			"kv.encoding.type": "INLINE", "key.schema.type": "STRING", "value.schema.type": "INT32",
		},
	}
	if err := s.Validate(); err != nil {
		panic(err)
	}
	value := schema.AppendKeyValue(nil, []byte("apples"), binary.BigEndian.AppendUint32(nil, 12))
	json, err := s.AppendJSON(nil, nil, value)
	if err != nil {
		panic(err)
	}
	fmt.Printf("%s\n", json)
	// Output: {"key":"apples","value":12}
}
