// What is a little too high for its slide becomes smaller; what is still too high can be scrolled.
function fit() {
  const slide = Reveal.getCurrentSlide();
  for (let zoom = 1; zoom > 0.6 && slide.scrollHeight > slide.clientHeight + 2; zoom -= 0.05)
    for (const part of slide.children) part.style.zoom = zoom;
}
Reveal.on('ready', fit); Reveal.on('slidechanged', fit);
Reveal.initialize({hash: true, width: 1100, height: 700, center: false, plugins: [RevealNotes]});
