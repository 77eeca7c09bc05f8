package kinds

import (
	"bytes"
	"flag"
	"slices"
	"testing"

	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/klog/v2"
)

// TestNamesAreNoAddresses: slices of names warn of themselves, and nobody takes the names for addresses, which the library that judges those would log as
// an error; addresses in an odd writing are warned of.
func TestNamesAreNoAddresses(t *testing.T) {
	before := klog.CaptureState()
	defer before.Restore()
	flags := flag.NewFlagSet("", flag.ContinueOnError)
	klog.InitFlags(flags)
	if err := flags.Parse([]string{"-logtostderr=false"}); err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	klog.SetOutput(&said)
	slice := &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeFQDN, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"db.example.com"}}}}
	if got := warnSlice(slice, nil); !slices.Equal(got, []string{"spec.addressType: FQDN endpoints are deprecated"}) {
		t.Errorf("%q", got)
	}
	slice.AddressType, slice.Endpoints[0].Addresses = discoveryv1.AddressTypeIPv6, []string{"fd00:0:0:0:0:0:0:1"}
	if got := warnSlice(slice, nil); len(got) != 1 {
		t.Errorf("%q", got)
	}
	klog.Flush()
	if said.Len() > 0 {
		t.Errorf("logged: %s", said.String())
	}
}
