module github.com/daybook/daybook/tools/bench

go 1.26.0

require (
	github.com/apache/pulsar-client-go v0.21.0
	github.com/daybook/daybook v0.0.0
)

replace github.com/daybook/daybook => ../..
