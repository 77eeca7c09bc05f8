# `make up` and `make test` do all the set-up themselves on a machine with Go, gcc, git and apt.
SHELL := /bin/bash
.DELETE_ON_ERROR:

KUBERNETES_VERSION := v$(shell sed -n 's,^\tk8s.io/api v0\.\([0-9.]*\).*,1.\1,p' go.mod)
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
# nri_no_wasm: no WebAssembly runtime for containerd plugins that nobody loads here (3 MB). grpcnotrace: no request log pages of gRPC; their
# templates would keep every exported method in the program (30 MB, docs/decisions).
GOFLAGS := -trimpath -tags=nri_no_wasm,grpcnotrace
LDFLAGS := -s -w -X wherry.dev/wherry/api/version.Wherry=$(VERSION) -X wherry.dev/wherry/api/version.Kubernetes=$(KUBERNETES_VERSION)
KUBECTL_LDFLAGS := -s -w -X k8s.io/component-base/version.gitVersion=$(KUBERNETES_VERSION) -X k8s.io/client-go/pkg/version.gitVersion=$(KUBERNETES_VERSION)

B := .build
PROGRAMS := embedded/programs/files
IMAGES := embedded/images/files
EMBEDDED := $(addprefix $(PROGRAMS)/,containerd.zst containerd-shim-runc-v2.zst runc.zst wherry-cni.zst kubectl.zst) $(addprefix $(IMAGES)/,pause.tar.zst sample.tar.zst)

.PHONY: build up down test test-all test-foreign bench-foreign lint packages bench clean FORCE

build: $(EMBEDDED)
	CGO_ENABLED=0 go build $(GOFLAGS) -ldflags '$(LDFLAGS)' -o bin/wherry ./cmd/wherry

# What the build (libseccomp) and the tests (iproute2, nftables, ...) need of Debian; nothing when it is there.
packages: $(B)/packages
$(B)/packages: hack/packages
	@mkdir -p $(B)
	hack/packages
	@touch $@

$(B)/pack: $(wildcard embedded/images/build/*.go) go.mod
	@mkdir -p $(B)
	CGO_ENABLED=0 go build $(GOFLAGS) -o $@ ./embedded/images/build

# A cluster on this machine with the sample app on it: `make up NODES=3`, and `make down` takes it away again.
up: build
	hack/up
down:
	@[ -x bin/wherry ] || $(MAKE) build
	bin/wherry down --name $(or $(NAME),default)

# The tests are compiled as the program is, so that everything is compiled once, and what is tested is what is shipped. Those
# that bring up whole clusters come last and one package at a time: they are about this machine's processes, and look at its clock.
GOTEST := CGO_ENABLED=0 WHERRY_BINARY=$(CURDIR)/bin/wherry go test $(GOFLAGS)
WHOLE := ./test/whole ./test/faults

test: packages build
	$(GOTEST) -p 2 -timeout 15m $$(go list ./... | grep -v -E '/test/(whole|faults)$$')
	$(GOTEST) -p 1 -count=1 -timeout 10m $(WHOLE)

# The lot: all of it under the race detector too (but the generated and the whole clusters), fifty kills of the server, ten minutes of kills of several servers and of etcd, and a little fuzzing.
test-all: lint test
	CGO_ENABLED=1 go test $(GOFLAGS) -race -p 2 -timeout 60m $$(go list ./... | grep -v -E '/test/|/api/openapi')
	WHERRY_KILL_ROUNDS=50 $(GOTEST) -count=1 -timeout 30m -v -run TestServerKilled ./test/faults
	WHERRY_LINEAR_SECONDS=600 $(GOTEST) -count=1 -timeout 30m -v -run TestLinearizableUnderKills ./test/faults
	hack/fuzz $(or $(FUZZTIME),10s)

# Upstream's components and other people's clients and suites against this build: `make test-foreign SUITE=components` for one. Their programs are built first, once.
test-foreign: packages build
	$(if $(filter operator,$(SUITE)),,cd test/foreign && $(FOREIGN) $(if $(SUITE),./$(SUITE),./...))
	$(if $(filter-out operator,$(SUITE)),,cd test/foreign/operator && $(FOREIGN) .)
FOREIGN = CGO_ENABLED=0 WHERRY_BINARY=$(CURDIR)/bin/wherry go test -trimpath -p 1 -count=1 -timeout $(or $(TIMEOUT),120m) $(if $(VERBOSE),-v)

# Wherry's API server and upstream's with etcd, measured in turns on this machine: a table, and .build/foreign/bench.json. Wants a quiet machine and half an hour.
bench-foreign: packages build
	@mkdir -p $(B)/foreign
	cd test/foreign && CGO_ENABLED=0 WHERRY_BINARY=$(CURDIR)/bin/wherry WHERRY_FOREIGN_BENCH=$(CURDIR)/$(B)/foreign/bench.json go test -trimpath -count=1 -timeout 120m -v -run TestRatios ./bench

# Deprecated fields and kinds (SA1019) are served all the same.
STATICCHECK := v0.8.2
lint:
	@out=$$(gofmt -l $$(git ls-files --cached --others --exclude-standard '*.go')); [ -z "$$out" ] || { echo "gofmt -w these:"; echo "$$out"; exit 1; }
	CGO_ENABLED=0 go vet $(GOFLAGS) ./...
	CGO_ENABLED=0 GOFLAGS=-trimpath go run honnef.co/go/tools/cmd/staticcheck@$(STATICCHECK) -tests=false -tags nri_no_wasm,grpcnotrace -checks 'SA*,-SA1019,U1000' ./...
	$(GOTEST) ./test/house

# The small programs of others: rebuilt when their versions change.
$(B)/containerd-shim-runc-v2: go.mod
	@mkdir -p $(B)
	CGO_ENABLED=0 go build $(GOFLAGS) -tags no_grpc -ldflags '-s -w' -o $@ github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2
$(B)/runc: go.mod $(B)/packages
	CGO_ENABLED=1 go build $(GOFLAGS) -tags 'seccomp osusergo netgo' -ldflags "-s -w -extldflags '-static'" -o $@ github.com/opencontainers/runc
$(B)/kubectl: go.mod $(wildcard cmd/kubectl/*.go)
	@mkdir -p $(B)
	CGO_ENABLED=0 go build $(GOFLAGS) -ldflags '$(KUBECTL_LDFLAGS)' -o $@ ./cmd/kubectl

$(B)/containerd: go.mod $(wildcard cmd/containerd/*.go embedded/containerd/daemon/*.go internal/memory/*.go)
	@mkdir -p $(B)
	CGO_ENABLED=0 go build $(GOFLAGS) -ldflags '-s -w' -o $@ ./cmd/containerd

# Our own: the Go build cache knows better than make whether anything changed, so that the file is replaced only then.
$(B)/wherry-cni: FORCE
	@mkdir -p $(B)
	@CGO_ENABLED=0 go build $(GOFLAGS) -ldflags '-s -w' -o $@.new ./cmd/wherry-cni && { cmp -s $@.new $@ && rm $@.new || mv $@.new $@; }
$(B)/sample: FORCE
	@mkdir -p $(B)
	@CGO_ENABLED=0 go build $(GOFLAGS) -ldflags '-s -w' -o $@.new ./embedded/images/sample && { cmp -s $@.new $@ && rm $@.new || mv $@.new $@; }
$(B)/pause: embedded/images/pause/pause.c
	@mkdir -p $(B)
	gcc -Os -static -nostdlib -nostartfiles -ffreestanding -fno-stack-protector -fno-asynchronous-unwind-tables -Wall -Wextra -Werror -Wl,--build-id=none -Wl,-z,noseparate-code -s -o $@ $<

# zstd's own strongest level is a tenth smaller than what the Go package can do.
$(PROGRAMS)/%.zst: $(B)/% $(B)/packages
	zstd -q -f -19 -T0 $< -o $@
$(IMAGES)/pause.tar.zst: $(B)/pause $(B)/pack
	$(B)/pack -name wherry.dev/pause:1 -program $< -user 65535:65535 -to $@
$(IMAGES)/sample.tar.zst: $(B)/sample $(B)/pack
	$(B)/pack -name wherry.dev/sample:1 -program $< -user 65532:65532 -port 8080 -to $@
FORCE:

clean:
	rm -rf bin $(B) $(PROGRAMS)/*.zst $(IMAGES)/*.zst
