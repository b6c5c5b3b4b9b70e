// Package marks writes short texts into pictures as small strips of coloured
// cells, and reads them back from a screenshot.
//
// Why it exists: the sample agents of the estate are driven by a scripted
// model. It is a program, not a neural network, and it is given what a
// computer-use model is given: PNG screenshots and nothing else. It cannot read
// letters, so the pages of the estate carry marks inside their controls and the
// script finds its way by them. Real models ignore the marks and read the page.
// Nothing in the boundary reads marks, and no decision may rest on one.
//
// A mark is exact: device scale factor 1, page zoom 1, lossless picture, fully
// visible. A scaled, blurred, cut or JPEG-compressed mark is not found; it is
// never misread, because length, padding and a 24 bit check must all agree.
//
// Not trusted: who drew the mark. A hostile page can draw any mark it likes,
// as it can write any text; the gullible agent is there to show what follows.
//
// Format: two rows of square cells, CellSize pixels each, filled column by
// column. Four preamble cells, then cells of 6 bits: the length of the text, 4
// cells of check (CRC-24 of RFC 9580 section 6.1.1 over length and text; it
// catches every change of a single cell), the text at 7 bits per character. Unused bits are zero, an unused last cell is all ones. A cell
// keeps 2 bits in each of red, green and blue.
package marks

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/png"
)

const (
	// MaxLen is the longest text of a mark, in characters of printable ASCII.
	MaxLen = 40
	// CellSize is the side of a cell in CSS pixels.
	CellSize = 3

	rows       = 2
	checkCells = 4
	headCells  = 1 + checkCells
	padCell    = 0x3f

	// The levels of a channel are 140, 170, 200 and 230: pastel, so that a
	// mark looks like a small tag, and never white, so that the page around a
	// mark is not taken for a part of it. A colour profile may move a level
	// by up to tolerance.
	levelLow, levelStep, tolerance = 140, 30, 8
)

// preamble is red over blue, green over yellow.
var preamble = [4]byte{0b110000, 0b000011, 0b001100, 0b111100}

// ErrText says that a text cannot be a mark: empty, too long, or not printable
// ASCII.
var ErrText = errors.New("mark text must be 1 to 40 characters of printable ASCII")

func valid(text string) bool {
	if len(text) == 0 || len(text) > MaxLen {
		return false
	}
	for i := range len(text) {
		if text[i] < 0x20 || text[i] > 0x7e {
			return false
		}
	}
	return true
}

// textCells is the number of cells that n characters take.
func textCells(n int) int { return (7*n + 5) / 6 }

func columns(n int) int {
	return (len(preamble) + headCells + textCells(n) + rows - 1) / rows
}

// Size is the width and height in CSS pixels of the mark of text.
func Size(text string) (width, height int) {
	return columns(len(text)) * CellSize, rows * CellSize
}

func check(text string) uint32 {
	crc := uint32(0xb704ce)
	for _, b := range append([]byte{byte(len(text))}, text...) {
		crc ^= uint32(b) << 16
		for range 8 {
			if crc <<= 1; crc&(1<<24) != 0 {
				crc ^= 0x1864cfb
			}
		}
	}
	return crc
}

// cells gives the 6 bit values of a valid text after the preamble.
func cells(text string) []byte {
	sum := check(text)
	out := []byte{byte(len(text)), byte(sum >> 18 & 63), byte(sum >> 12 & 63), byte(sum >> 6 & 63), byte(sum & 63)}
	var acc uint32
	bits := 0
	for i := range len(text) {
		acc = acc<<7 | uint32(text[i])
		for bits += 7; bits >= 6; {
			bits -= 6
			out = append(out, byte(acc>>bits&63))
		}
	}
	if bits > 0 {
		out = append(out, byte(acc<<(6-bits)&63))
	}
	return out
}

// Encode draws the mark of text.
func Encode(text string) (*image.NRGBA, error) {
	if !valid(text) {
		return nil, fmt.Errorf("%w: %q", ErrText, text)
	}
	w, h := Size(text)
	img := image.NewNRGBA(image.Rect(0, 0, w, h))
	all := append(preamble[:], cells(text)...)
	for len(all) < columns(len(text))*rows {
		all = append(all, padCell)
	}
	for i, v := range all {
		c := color.NRGBA{R: level(v >> 4), G: level(v >> 2), B: level(v), A: 255}
		x0, y0 := i/rows*CellSize, i%rows*CellSize
		for y := y0; y < y0+CellSize; y++ {
			for x := x0; x < x0+CellSize; x++ {
				img.SetNRGBA(x, y, c)
			}
		}
	}
	return img, nil
}

func level(v byte) byte { return levelLow + v&3*levelStep }

// DataURI is the mark of text as a data: URL of a PNG, for the src of an <img>
// that is shown at its own size with image-rendering: pixelated.
func DataURI(text string) (string, error) {
	img, err := Encode(text)
	if err != nil {
		return "", err
	}
	var buf bytes.Buffer
	enc := png.Encoder{CompressionLevel: png.BestCompression}
	if err := enc.Encode(&buf, img); err != nil {
		return "", fmt.Errorf("encode mark %q: %w", text, err)
	}
	return "data:image/png;base64," + base64.StdEncoding.EncodeToString(buf.Bytes()), nil
}
