package identity

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/record"
)

// Limits of one Workload API socket. The callers are not trusted.
const (
	maxConns    = 16
	maxStreams  = 16
	maxMessage  = 16 << 10 // bytes
	headerLimit = 8 << 10  // bytes
	bundleEvery = 30 * time.Second
)

// ServeWorkload serves the SPIFFE Workload API (SPIFFE Workload API and
// Endpoint specifications) on a Unix socket until ctx ends or the listener
// fails; then it closes l and every connection. One socket belongs to one
// session: it is mounted into that session's file system.
//
// A caller is attested on each call and each rotation, and gets the SVID of
// its own task. Callers that are nobody get PermissionDenied.
func (i *Issuer) ServeWorkload(ctx context.Context, l net.Listener, a Attestor) error {
	s := grpc.NewServer(
		grpc.Creds(peerCredentials{}),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxHeaderListSize(headerLimit),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.ConnectionTimeout(5*time.Second),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: time.Minute, Timeout: 20 * time.Second}),
	)
	workload.RegisterSpiffeWorkloadAPIServer(s, &workloadServer{i: i, attestor: a, known: map[string]bool{}})
	stop := context.AfterFunc(ctx, s.Stop)
	defer stop()
	defer s.Stop()
	err := s.Serve(&limitedListener{Listener: l})
	if ctx.Err() != nil || errors.Is(err, grpc.ErrServerStopped) || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

type workloadServer struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	i        *Issuer
	attestor Attestor

	mu    sync.Mutex
	known map[string]bool // workloads whose identity.attested was recorded on this socket
}

// attestedBody is the body of identity.attested.
type attestedBody struct {
	V         int      `json:"v"`
	Subject   string   `json:"subject"`
	UID       uint32   `json:"uid"`
	PID       int32    `json:"pid"`
	Selectors []string `json:"selectors"`
	Chain     []string `json:"chain,omitempty"` // the tasks above, nearest first
}

// caller attests who calls. The mark `workload.spiffe.io: true` is required
// first (SPIFFE Workload Endpoint section 3): it keeps requests forged across
// protocols out.
func (s *workloadServer) caller(ctx context.Context) (Workload, Peer, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	if v := md.Get("workload.spiffe.io"); len(v) != 1 || v[0] != "true" {
		return Workload{}, Peer{}, status.Error(codes.InvalidArgument, "security header missing from request")
	}
	gp, ok := peer.FromContext(ctx)
	if !ok {
		return Workload{}, Peer{}, status.Error(codes.PermissionDenied, "no peer")
	}
	auth, ok := gp.AuthInfo.(peerAuth)
	if !ok {
		return Workload{}, Peer{}, status.Error(codes.PermissionDenied, "no peer")
	}
	w, err := s.attest(ctx, auth.peer)
	return w, auth.peer, err
}

func (s *workloadServer) attest(ctx context.Context, p Peer) (Workload, error) {
	w, err := s.attestor.Attest(ctx, p)
	if err == nil && w.Tenant != s.i.log.Tenant() {
		err = refuse("wrong_tenant", "the workload belongs to another tenant")
	}
	if err == nil {
		err = s.i.tasks.check(w.Task)
	}
	if err == nil {
		err = s.recordAttested(ctx, w, p)
	}
	if err != nil {
		return Workload{}, s.deny(p, err)
	}
	return w, nil
}

// recordAttested writes identity.attested the first time that a workload
// shows up on this socket.
func (s *workloadServer) recordAttested(ctx context.Context, w Workload, p Peer) error {
	id, err := s.i.idOf(w)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known[id.String()] {
		return nil
	}
	chain, err := s.i.live.Live(ctx, w.Tenant, w.Task)
	if err != nil {
		return refuse("no_authority", "the task has no authority to act now")
	}
	if _, err := s.i.log.Append(ctx, record.Draft{
		Type: "identity.attested", Task: w.Task, Agent: w.Agent, Actor: "sallyport",
		Body: attestedBody{V: 1, Subject: id.String(), UID: p.UID, PID: p.PID, Selectors: w.Selectors, Chain: chain},
	}); err != nil {
		return errors.Join(ErrUnavailable, err)
	}
	s.known[id.String()] = true
	return nil
}

// deny turns an error into the status that the caller sees, and records a
// refusal. The caller never sees the private cause.
func (s *workloadServer) deny(p Peer, err error) error {
	r, ok := errors.AsType[*Refusal](err)
	if !ok {
		if !errors.Is(err, context.Canceled) {
			slog.Error("workload api", "tenant", s.i.log.Tenant(), "pid", p.PID, "err", err)
		}
		return status.Error(codes.Unavailable, "identity is not available, nothing was issued")
	}
	if r.Code == "bad_audience" {
		return status.Error(codes.InvalidArgument, r.Error())
	}
	s.i.denied.note(p, r.Code)
	if r.Code == "too_many" {
		return status.Error(codes.ResourceExhausted, r.Error())
	}
	return status.Error(codes.PermissionDenied, r.Error())
}

// FetchX509SVID streams the X.509-SVID of the caller's task until the task ends:
// a new one at half life, and the same again when a bundle changed.
func (s *workloadServer) FetchX509SVID(_ *workload.X509SVIDRequest, stream grpc.ServerStreamingServer[workload.X509SVIDResponse]) error {
	var svid x509SVID
	var renew time.Time
	sent := ""
	pass := s.passX509(stream)
	return s.repeat(stream.Context(), func(ctx context.Context, w Workload) (time.Duration, error) {
		if src, yes, err := s.i.fromSPIRE(); yes {
			if err != nil {
				return 0, err
			}
			return pass(ctx, src, w)
		}
		now := s.i.cfg.Now()
		if fresh := !now.Before(renew); fresh {
			var err error
			if svid, err = s.i.issueX509(ctx, w); err != nil {
				return 0, err
			}
			renew, sent = now.Add(svid.expires.Sub(now)/2), ""
		}
		v, err := s.i.view(ctx)
		if err != nil || v.version == sent {
			return renew.Sub(now), err
		}
		sent = v.version
		federated := map[string][]byte{}
		for _, b := range v.foreign {
			federated[b.TrustDomain().IDString()] = concat(b.X509Authorities())
		}
		return renew.Sub(now), stream.Send(&workload.X509SVIDResponse{FederatedBundles: federated, Svids: []*workload.X509SVID{{
			SpiffeId: svid.id, X509Svid: svid.cert, X509SvidKey: svid.key, Bundle: concat(v.own.X509Authorities()),
		}}})
	})
}

// passX509 is a step of FetchX509SVID where SPIRE issues: what it gave, again
// when it gives another, and an end when that expires.
func (s *workloadServer) passX509(stream grpc.ServerStreamingServer[workload.X509SVIDResponse]) func(context.Context, *SPIRE, Workload) (time.Duration, error) {
	var last action.Digest
	sent := ""
	return func(ctx context.Context, src *SPIRE, w Workload) (time.Duration, error) {
		svid, digest, err := s.i.passX509(ctx, src, w, last)
		if err != nil {
			return 0, err
		}
		v, err := src.view(s.i.td)
		if err != nil {
			return 0, err
		}
		wait := svid.Certificates[0].NotAfter.Sub(s.i.cfg.Now())
		if digest == last && v.version == sent {
			return wait, nil
		}
		last, sent = digest, v.version
		_, key, err := svid.MarshalRaw()
		if err != nil {
			return 0, err
		}
		federated := map[string][]byte{}
		for _, b := range v.foreign {
			federated[b.TrustDomain().IDString()] = concat(b.X509Authorities())
		}
		return wait, stream.Send(&workload.X509SVIDResponse{FederatedBundles: federated, Svids: []*workload.X509SVID{{
			SpiffeId: svid.ID.String(), X509Svid: concat(svid.Certificates), X509SvidKey: key, Bundle: concat(v.own.X509Authorities()),
		}}})
	}
}

// FetchX509Bundles streams the CA certificates of the trust domain and of those
// that it federates with.
func (s *workloadServer) FetchX509Bundles(_ *workload.X509BundlesRequest, stream grpc.ServerStreamingServer[workload.X509BundlesResponse]) error {
	return s.bundles(stream.Context(), func(all []*spiffebundle.Bundle) error {
		out := map[string][]byte{}
		for _, b := range all {
			out[b.TrustDomain().IDString()] = concat(b.X509Authorities())
		}
		return stream.Send(&workload.X509BundlesResponse{Bundles: out})
	})
}

// FetchJWTBundles streams the JWT keys of the trust domain and of those that it
// federates with.
func (s *workloadServer) FetchJWTBundles(_ *workload.JWTBundlesRequest, stream grpc.ServerStreamingServer[workload.JWTBundlesResponse]) error {
	return s.bundles(stream.Context(), func(all []*spiffebundle.Bundle) error {
		out := map[string][]byte{}
		for _, b := range all {
			doc, err := b.JWTBundle().Marshal()
			if err != nil {
				return err
			}
			out[b.TrustDomain().IDString()] = doc
		}
		return stream.Send(&workload.JWTBundlesResponse{Bundles: out})
	})
}

// bundles sends the bundles, ours first, and again when one changed.
func (s *workloadServer) bundles(ctx context.Context, send func([]*spiffebundle.Bundle) error) error {
	sent := ""
	return s.repeat(ctx, func(ctx context.Context, _ Workload) (time.Duration, error) {
		v, err := s.i.view(ctx)
		if err != nil || v.version == sent {
			return bundleEvery, err
		}
		sent = v.version
		return bundleEvery, send(append([]*spiffebundle.Bundle{v.own}, v.foreign...))
	})
}

// repeat attests the caller, does one step, and waits as long as the step says,
// or until a bundle changes, until the caller goes, the task ends, or a step
// fails. The step's context ends with the task.
func (s *workloadServer) repeat(ctx context.Context, step func(context.Context, Workload) (time.Duration, error)) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var ended, changed <-chan struct{}
	for {
		select {
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		case <-ended:
			return status.Error(codes.PermissionDenied, errEnded.Error())
		case <-changed:
		case <-timer.C:
		}
		changed = s.i.news.wait()
		w, p, err := s.caller(ctx)
		if err != nil {
			return err
		}
		ended = s.i.tasks.ended(w.Task)
		wait, err := s.i.within(ctx, w.Task, func(ctx context.Context) (time.Duration, error) { return step(ctx, w) })
		if err != nil {
			if st, ok := status.FromError(err); ok {
				return st.Err()
			}
			return s.deny(p, err)
		}
		timer.Reset(max(wait, 50*time.Millisecond))
	}
}

// within runs f with a context that ends when the task is revoked.
func (i *Issuer) within(ctx context.Context, task string, f func(context.Context) (time.Duration, error)) (time.Duration, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := i.tasks.ended(task)
	go func() {
		select {
		case <-ended:
			cancel()
		case <-ctx.Done():
		}
	}()
	d, err := f(ctx)
	if err != nil && i.tasks.check(task) != nil {
		return 0, errEnded
	}
	return d, err
}

// FetchJWTSVID issues one JWT-SVID for the audiences that the caller names.
func (s *workloadServer) FetchJWTSVID(ctx context.Context, r *workload.JWTSVIDRequest) (*workload.JWTSVIDResponse, error) {
	w, p, err := s.caller(ctx)
	if err != nil {
		return nil, err
	}
	if id, err := s.i.idOf(w); err != nil {
		return nil, s.deny(p, err)
	} else if r.SpiffeId != "" && r.SpiffeId != id.String() {
		return nil, s.deny(p, refuse("wrong_subject", "the caller is not the workload that it asks for"))
	}
	var id string
	var t Token
	_, err = s.i.within(ctx, w.Task, func(ctx context.Context) (_ time.Duration, err error) {
		id, t, err = s.i.issueJWT(ctx, w, r.Audience, "workload-api", "")
		return 0, err
	})
	if err != nil {
		return nil, s.deny(p, err)
	}
	return &workload.JWTSVIDResponse{Svids: []*workload.JWTSVID{{SpiffeId: id, Svid: t.Reveal()}}}, nil
}

// ValidateJWTSVID verifies a JWT-SVID of this trust domain, or of one that it
// federates with.
func (s *workloadServer) ValidateJWTSVID(ctx context.Context, r *workload.ValidateJWTSVIDRequest) (*workload.ValidateJWTSVIDResponse, error) {
	_, p, err := s.caller(ctx)
	if err != nil {
		return nil, err
	}
	id, st, err := s.i.validate(ctx, r.Svid, r.Audience)
	if err != nil {
		if _, ok := errors.AsType[*Refusal](err); ok {
			return nil, status.Error(codes.InvalidArgument, err.Error())
		}
		return nil, s.deny(p, err)
	}
	return &workload.ValidateJWTSVIDResponse{SpiffeId: id, Claims: st}, nil
}

func (i *Issuer) validate(ctx context.Context, svid, audience string) (string, *structpb.Struct, error) {
	if sub := subjectUnverified(svid); i.external.Load() || strings.HasPrefix(sub, "spiffe://") && !strings.HasPrefix(sub, i.td.IDString()+"/") {
		f, err := i.VerifyForeignJWT(ctx, svid, audience)
		if err != nil {
			return "", nil, err
		}
		b, err := canon.Marshal(f.Claims)
		if err != nil {
			return "", nil, err
		}
		st := &structpb.Struct{}
		return f.ID, st, st.UnmarshalJSON(b)
	}
	sub, c, err := i.verifyJWT(ctx, svid, audience, parseAny)
	if err != nil {
		return "", nil, err
	}
	aud := make([]any, len(c.Audience))
	for n, a := range c.Audience {
		aud[n] = a
	}
	st, err := structpb.NewStruct(map[string]any{
		"iss": c.Issuer, "sub": c.Subject, "aud": aud, "exp": c.Expires, "iat": c.IssuedAt, "jti": c.ID,
	})
	return sub.ID, st, err
}
