// Package policypb is the stored records of package policy: tenants, namespaces and partitioned topics. It is generated
// from policy.proto.
package policypb
