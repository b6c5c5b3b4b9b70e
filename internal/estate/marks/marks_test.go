package marks_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"image"
	"image/color"
	"image/draw"
	"image/jpeg"
	"image/png"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/estate/marks"
)

func source(t *testing.T) *rand.Rand {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 1))
}

func randomText(r *rand.Rand) string {
	b := make([]byte, 1+r.IntN(marks.MaxLen))
	for i := range b {
		b[i] = byte(0x20 + r.IntN(0x7f-0x20))
	}
	return string(b)
}

// background fills with white, one colour, gradients, noise, or noise made of
// the cell colours themselves, which is the hardest to tell from a mark.
func background(r *rand.Rand, w, h int) *image.RGBA {
	img := image.NewRGBA(image.Rect(0, 0, w, h))
	kind := r.IntN(5)
	flat := [3]byte{byte(r.IntN(256)), byte(r.IntN(256)), byte(r.IntN(256))}
	for i := 0; i < len(img.Pix); i += 4 {
		for c := range 3 {
			switch kind {
			case 0:
				img.Pix[i+c] = 255
			case 1:
				img.Pix[i+c] = flat[c]
			case 2:
				img.Pix[i+c] = byte(i/4/(c+1)) % 251
			case 3:
				img.Pix[i+c] = byte(r.IntN(256))
			case 4:
				img.Pix[i+c] = byte(140 + 30*r.IntN(4))
			}
		}
		img.Pix[i+3] = 255
	}
	return img
}

func TestRoundTripOnRandomBackgrounds(t *testing.T) {
	r := source(t)
	for range 150 {
		img := background(r, 400, 120)
		want := map[marks.Mark]bool{}
		for y := 0; y+6 <= 120; y += 6 + r.IntN(20) {
			text := randomText(r)
			m, err := marks.Encode(text)
			if err != nil {
				t.Fatal(err)
			}
			x := r.IntN(400 - m.Bounds().Dx())
			draw.Draw(img, m.Bounds().Add(image.Pt(x, y)), m, image.Point{}, draw.Src)
			want[marks.Mark{Text: text, X: x + m.Bounds().Dx()/2, Y: y + 3}] = true
		}
		got := marks.Find(img)
		if len(got) != len(want) {
			t.Fatalf("got %d marks, want %d", len(got), len(want))
		}
		for _, m := range got {
			if !want[m] {
				t.Fatalf("got %+v, which was not drawn", m)
			}
		}
	}
}

func TestNoiseHasNoMarks(t *testing.T) {
	r := source(t)
	for range 20 {
		if got := marks.Find(background(r, 1280, 200)); len(got) != 0 {
			t.Fatalf("got %+v, want none", got)
		}
	}
}

// A damaged mark is not found; above all it is never read as another text.
func TestDamageIsNotMisread(t *testing.T) {
	r := source(t)
	for range 2000 {
		m, err := marks.Encode(randomText(r))
		if err != nil {
			t.Fatal(err)
		}
		b := m.Bounds()
		x, y := r.IntN(b.Dx()/3)*3, r.IntN(2)*3
		old := m.NRGBAAt(x, y)
		for m.NRGBAAt(x, y) == old {
			c := color.NRGBA{R: byte(140 + 30*r.IntN(4)), G: byte(140 + 30*r.IntN(4)), B: byte(140 + 30*r.IntN(4)), A: 255}
			draw.Draw(m, image.Rect(x, y, x+3, y+3), image.NewUniform(c), image.Point{}, draw.Src)
		}
		if got := marks.Find(m); len(got) != 0 {
			t.Fatalf("got %+v from a mark with one wrong cell", got)
		}
	}
}

func TestOnlyExactPictures(t *testing.T) {
	m, err := marks.Encode("btn:mfa-reset")
	if err != nil {
		t.Fatal(err)
	}
	double := image.NewRGBA(image.Rect(0, 0, 2*m.Bounds().Dx(), 2*m.Bounds().Dy()))
	for y := range double.Bounds().Dy() {
		for x := range double.Bounds().Dx() {
			double.Set(x, y, m.At(x/2, y/2))
		}
	}
	var buf bytes.Buffer
	if err := jpeg.Encode(&buf, m, nil); err != nil {
		t.Fatal(err)
	}
	lossy, err := jpeg.Decode(&buf)
	if err != nil {
		t.Fatal(err)
	}
	faint := image.NewNRGBA(m.Bounds())
	copy(faint.Pix, m.Pix)
	for i := 3; i < len(faint.Pix); i += 4 {
		faint.Pix[i] = 200
	}
	cut := m.SubImage(image.Rect(0, 0, m.Bounds().Dx()-1, 6))
	for name, img := range map[string]image.Image{
		"double": double, "jpeg": lossy, "translucent": faint, "cut": cut,
		"empty": image.NewRGBA(image.Rectangle{}), "one_pixel": image.NewRGBA(image.Rect(0, 0, 1, 1)),
	} {
		t.Run(name, func(t *testing.T) {
			if got := marks.Find(img); len(got) != 0 {
				t.Errorf("got %+v, want none", got)
			}
		})
	}
}

func TestOtherImageTypesAndOrigins(t *testing.T) {
	m, err := marks.Encode("page:iam/users")
	if err != nil {
		t.Fatal(err)
	}
	r := image.Rect(-10, 20, 200, 60)
	for name, img := range map[string]draw.Image{
		"rgba": image.NewRGBA(r), "nrgba": image.NewNRGBA(r), "rgba64": image.NewRGBA64(r),
	} {
		draw.Draw(img, r, image.White, image.Point{}, draw.Src)
		draw.Draw(img, m.Bounds().Add(image.Pt(-3, 31)), m, image.Point{}, draw.Src)
		got := marks.Find(img)
		want := marks.Mark{Text: "page:iam/users", X: -3 + m.Bounds().Dx()/2, Y: 34}
		if len(got) != 1 || got[0] != want {
			t.Errorf("%s: got %+v, want %+v", name, got, want)
		}
	}
}

func TestTextsThatCannotBeMarks(t *testing.T) {
	for _, text := range []string{"", strings.Repeat("x", marks.MaxLen+1), "é", "a\nb", "\x7f", "a\x00"} {
		if _, err := marks.DataURI(text); !errors.Is(err, marks.ErrText) {
			t.Errorf("DataURI(%q): got %v, want ErrText", text, err)
		}
	}
}

func TestDataURIIsThePicture(t *testing.T) {
	uri, err := marks.DataURI("field:user")
	if err != nil {
		t.Fatal(err)
	}
	raw, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(uri, "data:image/png;base64,"))
	if err != nil {
		t.Fatal(err)
	}
	img, err := png.Decode(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	if got := marks.Find(img); len(got) != 1 || got[0].Text != "field:user" {
		t.Errorf("got %+v, want field:user", got)
	}
}

func FuzzFind(f *testing.F) {
	m, _ := marks.Encode("do:add-admin")
	f.Add(uint16(m.Bounds().Dx()), m.Pix)
	f.Fuzz(func(t *testing.T, width uint16, pix []byte) {
		w := int(width)
		if w == 0 || len(pix)/4/w == 0 {
			return
		}
		h := len(pix) / 4 / w
		for _, got := range marks.Find(&image.NRGBA{Pix: pix, Stride: 4 * w, Rect: image.Rect(0, 0, w, h)}) {
			// What was read must be what its text draws.
			want, err := marks.Encode(got.Text)
			if err != nil {
				t.Fatalf("found %q, which cannot be drawn", got.Text)
			}
			if again := marks.Find(want); len(again) != 1 || again[0].Text != got.Text {
				t.Fatalf("found %q, drawn it reads %+v", got.Text, again)
			}
		}
	})
}

func BenchmarkFind(b *testing.B) {
	img := background(rand.New(rand.NewPCG(4, 2)), 1280, 800)
	for i := range 60 {
		m, _ := marks.Encode("link:user/some-name")
		draw.Draw(img, m.Bounds().Add(image.Pt(20+i%4*300, i*12)), m, image.Point{}, draw.Src)
	}
	for b.Loop() {
		marks.Find(img)
	}
}
