// What a test asks of the page, as `lab`.
() => {
  const notebook = () => jupyterapp.shell.currentWidget.content;
  const kernel = () => jupyterapp.shell.currentWidget.context.sessionContext.session?.kernel;
  const cells = () => notebook().widgets.filter(cell => cell.model.type === 'code' && cell.model.sharedModel.source);
  window.lab = {
    kernel,
    done: () => cells().every(cell => cell.model.executionCount !== null) && kernel()?.status === 'idle',
    // What every code cell has put out, by the cell's id, as the file would hold it.
    outputs: () => Object.fromEntries(cells().map(cell => [cell.model.id, cell.model.outputs.toJSON()])),
    // Of widgets, decoded and not empty.
    pictures: () => [...document.querySelectorAll('.jupyter-widgets img')].filter(image => image.complete && image.naturalWidth > 0).length
      + document.querySelectorAll('.jupyter-widgets canvas, .jupyter-widgets svg.marks').length,
    buttons: name => [...document.querySelectorAll('.jupyter-widgets button')]
      .filter(button => button.textContent.trim() === name).length,
    text: () => cells().map(cell => cell.outputArea.node.textContent).join('\n'),
    progress: () => Math.max(0, ...[...document.querySelectorAll('.jupyter-widgets .progress-bar')]
      .map(bar => parseFloat(bar.style.width) || 0)),
    scroll: place => (notebook().scrollToItem(place), notebook().widgets.length),
    shutdown: () => jupyterapp.shell.currentWidget.context.sessionContext.shutdown(),
    // Moves each slider of each chart to its far end and back, so often: by chart, milliseconds to new pixels, if any.
    moveCharts: async times => {
      const frame = () => new Promise(requestAnimationFrame), found = [];
      for (const root of document.querySelectorAll('.vega-embed')) {
        const canvas = root.querySelector('canvas'), sliders = [...root.querySelectorAll('input[type=range]')];
        if (!canvas || !sliders.length) continue;
        root.scrollIntoView();
        for (let k = 0; k < 10; k++) await frame();  // JupyterLab draws what scrolling brought
        const waits = [];
        for (const slider of sliders) {
          const [low, high, here] = [slider.min, slider.max, slider.value].map(Number);
          const far = high - here > here - low ? high : low;
          for (const value of Array(times).fill([far, here]).flat()) {
            const before = canvas.toDataURL(), began = performance.now();
            slider.value = value;
            slider.dispatchEvent(new Event('input', {bubbles: true}));
            let seen;  // when a frame began that may show it: reading the pixels takes some milliseconds, too
            do {
              await frame();
              seen = performance.now() - began;
            } while (canvas.toDataURL() === before && seen < 3000);
            if (seen < 3000) waits.push(seen);
          }
        }
        found.push(waits);
      }
      return found;
    },
  };
}
