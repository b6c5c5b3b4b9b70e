package urls

import (
	"math/rand/v2"
	"strings"
)

// generate makes n addresses, the same ones for the same seed. The first are
// addresses on which Go's net/url and Chromium are known to disagree.
func generate(seed uint64, n int) []string {
	r := rand.New(rand.NewPCG(seed, 1))
	out := append([]string{}, known...)
	for len(out) < n {
		out = append(out, one(r))
	}
	return out[:n]
}

func pick(r *rand.Rand, from []string) string { return from[r.IntN(len(from))] }

func one(r *rand.Rand) string {
	var b strings.Builder
	if r.IntN(5) < 4 {
		b.WriteString(pick(r, plainSchemes))
	} else {
		b.WriteString(pick(r, schemes))
	}
	if r.IntN(8) == 0 {
		b.WriteString(pick(r, users))
	}
	switch r.IntN(4) {
	case 0, 1:
		b.WriteString(mangle(r, pick(r, plainHosts)))
	case 2:
		b.WriteString(pick(r, hosts))
	default:
		b.WriteString(pick(r, addresses))
	}
	if r.IntN(4) == 0 {
		b.WriteString(pick(r, ports))
	}
	for range r.IntN(5) {
		b.WriteString(pick(r, separators) + pick(r, segments))
	}
	if r.IntN(3) == 0 {
		b.WriteString(pick(r, queries))
	}
	if r.IntN(5) == 0 {
		b.WriteString(pick(r, fragments))
	}
	u := b.String()
	if r.IntN(6) == 0 {
		at := r.IntN(len(u) + 1)
		u = u[:at] + pick(r, insertions) + u[at:]
	}
	return strings.ToValidUTF8(u, "\u00ad") // JSON carries no other
}

// mangle writes a host in another way.
func mangle(r *rand.Rand, h string) string {
	at := r.IntN(len(h))
	switch r.IntN(12) {
	case 0:
		return strings.ToUpper(h)
	case 1:
		return h[:at] + strings.ToUpper(h[at:])
	case 2:
		return h + "."
	case 3:
		return h + ".."
	case 4:
		const hex = "0123456789abcdef"
		return h[:at] + "%" + string(hex[h[at]>>4]) + string(hex[h[at]&15]) + h[at+1:]
	case 5: // full width
		return h[:at] + string(rune(h[at])-'!'+'！') + h[at+1:]
	case 6:
		return strings.ReplaceAll(h, ".", pick(r, []string{"。", "．", "｡", "․", "%2e", "%E3%80%82", ".."}))
	case 7:
		return h[:at] + pick(r, []string{"\u00ad", "\u200b", "\u200d", "\u2060", "\ufeff", "\u0301", "\u202e", "_", "-"}) + h[at:]
	}
	return h
}

var (
	known = []string{
		"http://2130706433/", "http://0x7f000001/", "http://0177.0.0.1/", "http://127.1/", "http://0x7f.1/", "http://127.0.0.1./",
		"http://①②⑦.⓪.⓪.①/", "http://127。0。0。1/", "http://ｅｘａｍｐｌｅ.test/", "http://ex\u00adample.test/",
		`http://allowed.test\@evil.test/`, "http://allowed.test@evil.test/", "http://allowed.test%2f@evil.test/", "http://allowed.test:80:90@evil.test/",
		"ht\ttp://a.test/", "http://a.te\nst/x", "http:/a.test", "http:a.test", `http:\\a.test`, "http://%61.test/", "http://xn--example-.test/",
		"http://аpple.test/", "http://faß.test/", "http://A.Test./", "http://[::1%25eth0]/", "http://a.test/%2e%2e/admin", "http://a.test/a;b/../admin",
		`http://a.test/\..\admin`, "http://a.test//admin", "http://a.test/?#", "http://a.test/#?x", "http://a.test?x", "http://a.test#@evil.test/",
		"http://a.test:80/", "https://a.test:443/", "https://a.test:0443/", "http://a.test:/", "http://[::ffff:127.0.0.1]/", "http://[0:0::1]/",
		"http://xn--a.test/", "http://xn--.test/", "http://xn--bcher-kva.test/", "http://XN--BCHER-KVA.test/", "http://a.test/%zz", "http://a.test/é?é",
		`http://a.test/"<>^{}|` + "`", `http://a.test/?"<>'` + "`", "http://a.test/a b", "http://a.test/.%2e/x", "http://a.test/%2E/", "http://a.test/..;/x",
	}
	plainSchemes = []string{"http://", "https://", "http://", "https://", "HTTP://", "hTTps://"}
	schemes      = []string{"http:/", "http:", `http:\\`, `https:\/`, "https:/", "http:///", "http:////", "https:\\", "//", `\\`, `/\`, "http:/\t/", " http://", "\x01http://",
		"http ://", "http://\t", "h\nttp://", "http\r://", "httpx://", "shttp://", "ftp://", "ws://", "wss://", "file://", "view-source:http://", "blob:http://",
		"filesystem:http://", "feed:http://", "http:http://", "http:https://", "https:http://", "gopher://", "http%3a//", "http：//", "about:", "data:,", "http+x://", "-http://", "1http://"}
	users      = []string{"user@", "user:pw@", "allowed.test@", "allowed.test%40", "allowed.test:80@", "@", "a@b@", `a\@`, "a%00@", ":@", ":pw@", "allowed.test%2f@", "＠", "allowed.test#@", "allowed.test?@", "allowed.test;@"}
	plainHosts = []string{"a.test", "b.example.test", "allowed.test", "evil.test", "app.localhost", "localhost", "a-b.test", "x1.test"}
	hosts      = []string{"bücher.test", "faß.test", "xn--bcher-kva.test", "xn--example-.test", "xn--a.test", "xn--.test", "xn--fa-hia.test", "XN--BCHER-KVA.test", "аpple.test",
		"例え.test", "a\u200db.test", "☃.test", "a_b.test", "-a.test", "a-.test", "a--b.test", "ab--cd.test", "a..test", ".a.test", "", ".", "..", "a.test／x", "a.test⁄x", "a.test∕x",
		"a℀b.test", "a⒈test", "K.test", "ſ.test", "İ.test", "a%2etest", "a%2ftest", "a%00.test", "a%20b.test", "%", "%zz.test", "a*b.test", "a!b.test", "a$b.test", "a&b.test",
		"a'b.test", "a(b).test", "a,b.test", "a;b.test", "a=b.test", "a~b.test", `a"b.test`, "a<b.test", "a>b.test", "a[b.test", "a]b.test", "a^b.test", "a`b.test", "a{b.test",
		"a|b.test", "a}b.test", "a b.test", "a+b.test", "a:b.test", "xn--n3h.test", "ⅷ.test", "a.1", "a.0x1", "a.01", "1.2.3.4.test", "a.test.1", strings.Repeat("a", 63) + ".test",
		strings.Repeat("a", 64) + ".test", strings.Repeat("a.", 126) + "test"}
	addresses = []string{"127.0.0.1", "127.1", "127.0.1", "2130706433", "0x7f000001", "017700000001", "0177.0.0.1", "0x7f.0.0.1", "0x7f.1", "127.0.0.01", "127.0.0.1.", "127.0.0.1..",
		"127.0.0.256", "127.0.0.09", "4294967295", "4294967296", "0", "00", "0x", "0x.0x", "1.2.3.4.5", "1.2.3", "１２７.0.0.1", "①②⑦.⓪.⓪.①", "127。0。0。1", "%31%32%37.0.0.1", "127.0.0.%31",
		"10.1", "169.254.169.254", "0xa9fea9fe", "2852039166", "93.184.216.34", "0x5db8d822", "٠.0.0.1", "127.0.0.0x1", "1e3.0.0.1", "+127.0.0.1", "-1", "127.0.0.1%20", "256", "0xg.1",
		"[::1]", "[0:0:0:0:0:0:0:1]", "[::0001]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]", "[fe80::1%25eth0]", "[fe80::1%eth0]", "[::1%25]", "[2001:DB8::1]", "[2001:db8:0:0::1]",
		"[::1", "::1]", "::1", "[]", "[:::1]", "[1:2:3:4:5:6:7:8:9]", "[::1].test", "[::1]x", "[v1.a]", "[64:ff9b::7f00:1]", "[::ffff:0x7f.1]", "[127.0.0.1]", "%5b::1%5d", "[::1.2.3]", "[::%31]"}
	ports      = []string{":80", ":443", ":8080", ":0", ":", ":080", ":00443", ":0000000080", ":65535", ":65536", ":99999999999", ":80:90", ":8a", ":+80", ":-1", ":%38%30", ":８０", ": 80", ":80 ", ":0x50", ":6666", ":8443", ":81"}
	separators = []string{"/", "/", "/", "/", "/", "//", `\`, "/./", "/../", "%2f", ";", "///", "/%2e/", `/\`}
	segments   = []string{"a", "b", "admin", "..", ".", "%2e", "%2E%2e", ".%2e", "%2e.", "%252e%252e", "%2f", "%2F..", "%5c", `\`, `..\`, "a;b=c", "..;", ";", ";/..", "", " ", "a b", "%20", "+", "%00", "%", "%z", "%zz",
		"%u002e", "é", "／", "‥", "．．", "a\tb", "a\nb", "a\rb", "\x7f", "%41", "%61dmin", "A", "~", "%7e", "'", `"`, "<", ">", "`", "{", "}", "|", "%7C", "^", "[", "]", "@", ":", "*", "&", "=", "$", "!", "(", ",", "%C3%A9", "%c3%a9", "%ff", "%c0%ae",
		"a.", ".a", "...", "a..", "😀", "\u202e", "%0d%0a", "%09", "C:", "C|", "a@evil.test", ":80", "http://evil.test", "%3f", "%23", "?", "#", "a%2fb", "a%25b", "con", "a%"}
	queries    = []string{"?", "?a=b", "?a=b&a=c", "?x=%2e", "?é", `?"<>'` + "`", "?a b", "?a\tb", "?a+b", "??", "?/../", "?%", `?\`, "?a;b", "?a#", "?http://evil.test/", "?{|}^[]", "?%00", "?%zz", "?a=&", "?&", "?=", "?\u202e", "?😀", "?%41"}
	fragments  = []string{"#", "#f", "#?x", "#/../", "#@evil.test", `#\`, "##", "#é"}
	insertions = []string{"\t", "\n", "\r", "\r\n", " ", "\x00", "\x1f", "\\", "/", "%", "%00", "%09", "%0a", "@", "#", "?", ";", ":", ".", "\u00a0", "\u2028", "\u3000", "\ufeff", "\u00ad", "％", "\x7f"}
)
