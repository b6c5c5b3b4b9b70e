package marks

import (
	"image"
	"image/draw"
)

// A Mark is a text found in a picture.
type Mark struct {
	Text string
	// X and Y are the centre of the mark in pixels of the picture. A control of
	// the estate has its mark inside, so a click there hits the control.
	X, Y int
}

// Find reads all marks of a picture, from top to bottom and left to right. It
// reads every pixel once; a screen of 1280x800 takes a few milliseconds.
func Find(img image.Image) []Mark {
	p := pixelsOf(img)
	var found []Mark
	var taken []image.Rectangle
	for y := 0; y+rows*CellSize <= p.h; y++ {
		row := p.pix[y*p.stride:]
		for x := 0; x < p.w; x++ {
			// The first cell is red: look at one pixel before anything else.
			if row[4*x] < levelLow+3*levelStep-tolerance || !p.starts(x, y) || covered(taken, x, y) {
				continue
			}
			text, ok := p.read(x, y)
			if !ok {
				continue
			}
			w, h := Size(text)
			taken = append(taken, image.Rect(x, y, x+w, y+h))
			found = append(found, Mark{Text: text, X: img.Bounds().Min.X + x + w/2, Y: img.Bounds().Min.Y + y + h/2})
		}
	}
	return found
}

func covered(taken []image.Rectangle, x, y int) bool {
	for _, r := range taken {
		if image.Pt(x, y).In(r) {
			return true
		}
	}
	return false
}

// pixels is a picture as bytes: red, green, blue, alpha.
type pixels struct {
	pix          []byte
	stride, w, h int
}

func pixelsOf(img image.Image) pixels {
	b := img.Bounds()
	if b.Empty() {
		return pixels{}
	}
	switch m := img.(type) {
	case *image.RGBA:
		return pixels{m.Pix[m.PixOffset(b.Min.X, b.Min.Y):], m.Stride, b.Dx(), b.Dy()}
	case *image.NRGBA:
		return pixels{m.Pix[m.PixOffset(b.Min.X, b.Min.Y):], m.Stride, b.Dx(), b.Dy()}
	}
	m := image.NewRGBA(image.Rect(0, 0, b.Dx(), b.Dy()))
	draw.Draw(m, m.Bounds(), img, b.Min, draw.Src)
	return pixels{m.Pix, m.Stride, b.Dx(), b.Dy()}
}

func (p pixels) starts(x, y int) bool {
	for i, want := range preamble {
		if got, ok := p.cell(x, y, i); !ok || got != want {
			return false
		}
	}
	return true
}

// cell reads cell i of a mark whose corner is at x, y. It is not ok when the
// cell is outside, not of one colour, not opaque, or between two levels.
func (p pixels) cell(x, y, i int) (byte, bool) {
	x += i / rows * CellSize
	y += i % rows * CellSize
	if x+CellSize > p.w || y+CellSize > p.h {
		return 0, false
	}
	o := y*p.stride + 4*x
	c := [4]byte(p.pix[o : o+4])
	r, okR := bitsOf(c[0])
	g, okG := bitsOf(c[1])
	b, okB := bitsOf(c[2])
	if !okR || !okG || !okB || c[3] != 255 {
		return 0, false
	}
	for dy := range CellSize {
		line := p.pix[o+dy*p.stride:]
		for dx := range CellSize {
			if [4]byte(line[4*dx:4*dx+4]) != c {
				return 0, false
			}
		}
	}
	return r<<4 | g<<2 | b, true
}

func bitsOf(v byte) (byte, bool) {
	n := (int(v) - levelLow + levelStep/2) / levelStep
	if n < 0 || n > 3 {
		return 0, false
	}
	d := int(v) - levelLow - n*levelStep
	return byte(n), d >= -tolerance && d <= tolerance
}

// read decodes the mark at x, y, whose preamble is already known to be there.
func (p pixels) read(x, y int) (string, bool) {
	at := len(preamble)
	n, ok := p.cell(x, y, at)
	if !ok || n == 0 || n > MaxLen {
		return "", false
	}
	var sum, acc uint32
	for i := 1; i < headCells; i++ {
		v, ok := p.cell(x, y, at+i)
		if !ok {
			return "", false
		}
		sum = sum<<6 | uint32(v)
	}
	at += headCells
	text := make([]byte, 0, n)
	bits := 0
	for i := range textCells(int(n)) {
		v, ok := p.cell(x, y, at+i)
		if !ok {
			return "", false
		}
		acc = acc<<6 | uint32(v)
		if bits += 6; bits >= 7 {
			bits -= 7
			text = append(text, byte(acc>>bits&0x7f))
		}
	}
	for i := at + textCells(int(n)); i < columns(int(n))*rows; i++ {
		if v, ok := p.cell(x, y, i); !ok || v != padCell {
			return "", false
		}
	}
	s := string(text)
	// Unused low bits must be zero: one text has one picture.
	if acc&(1<<bits-1) != 0 || len(s) != int(n) || !valid(s) || check(s) != sum {
		return "", false
	}
	return s, true
}
