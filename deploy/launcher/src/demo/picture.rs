//! Pictures of coloured shapes, and questions with known answers.
//!
//! The rules are those the learned model was taught by (`tests/fixtures/shapes/README.md`): shapes in square cells on
//! a plain background, decided by whole-number tests, without antialiasing.

use image::{Rgb, RgbImage};
use rand::{
    Rng,
    rngs::StdRng,
    seq::{IndexedRandom, SliceRandom},
};

const COLOURS: [(&str, [u8; 3]); 7] = [
    ("red", [220, 40, 40]),
    ("green", [40, 170, 60]),
    ("blue", [50, 80, 220]),
    ("yellow", [235, 205, 40]),
    ("purple", [150, 60, 190]),
    ("black", [30, 30, 30]),
    ("white", [245, 245, 245]),
];
const SHAPES: [(&str, &str); 4] = [("circle", "circles"), ("square", "squares"), ("triangle", "triangles"), ("cross", "crosses")];
const NUMBERS: [&str; 5] = ["zero", "one", "two", "three", "four"];
const BACKGROUNDS: [[u8; 3]; 4] = [[200, 200, 200], [120, 120, 120], [235, 225, 205], [170, 190, 210]];
/// Columns and rows of cells.
const GRIDS: [(i32, i32); 6] = [(2, 2), (3, 2), (2, 3), (4, 2), (2, 4), (3, 3)];
/// Sides of a cell in pixels; with 30 the picture is no multiple of a patch and has to be scaled.
const CELLS: [i32; 2] = [32, 30];

/// A shape in a cell.
#[derive(Clone, Copy, Debug)]
struct Thing {
    shape: usize,
    colour: usize,
    column: i32,
    row: i32,
    offset: (i32, i32),
    radius: i32,
}

impl Thing {
    fn name(&self) -> String {
        format!("{} {}", COLOURS[self.colour].0, SHAPES[self.shape].0)
    }

    /// Whether the pixel `(dx, dy)` from the centre belongs to the shape.
    fn covers(&self, dx: i32, dy: i32) -> bool {
        let r = self.radius;
        let inside = dx.abs() <= r && dy.abs() <= r;
        inside
            && match SHAPES[self.shape].0 {
                "circle" => dx * dx + dy * dy <= r * r,
                "square" => true,
                "triangle" => 2 * dx.abs() <= dy + r,
                _ => dx.abs() <= r / 3 || dy.abs() <= r / 3,
            }
    }
}

/// A picture with a question about it.
#[derive(Debug)]
pub(crate) struct Puzzle {
    pub(crate) picture: RgbImage,
    pub(crate) question: String,
    pub(crate) answer: String,
}

impl Puzzle {
    /// Draws one.
    pub(crate) fn draw(rng: &mut StdRng) -> Self {
        let (columns, rows) = pick(&GRIDS, rng);
        let cell = pick(&CELLS, rng);
        let things = scatter(columns, rows, rng);
        let picture = rasterise(columns, rows, cell, &things, pick(&BACKGROUNDS, rng));
        let (question, answer) = ask(&things, rng);
        Self { picture, question, answer }
    }
}

fn pick<T: Copy>(choices: &[T], rng: &mut StdRng) -> T {
    // The tables are never empty; the first entry stands in for a case that cannot be.
    choices.choose(rng).copied().unwrap_or(choices[0])
}

/// One to four shapes in different cells, in reading order.
fn scatter(columns: i32, rows: i32, rng: &mut StdRng) -> Vec<Thing> {
    let mut cells: Vec<i32> = (0..columns * rows).collect();
    cells.shuffle(rng);
    cells.truncate(pick(&[1, 1, 2, 2, 3, 3, 4], rng));
    cells.sort_unstable();
    cells
        .into_iter()
        .map(|cell| Thing {
            shape: rng.random_range(0..SHAPES.len()),
            colour: rng.random_range(0..COLOURS.len()),
            column: cell % columns,
            row: cell / columns,
            offset: (rng.random_range(-2..=2), rng.random_range(-2..=2)),
            radius: rng.random_range(9..=12),
        })
        .collect()
}

fn rasterise(columns: i32, rows: i32, cell: i32, things: &[Thing], background: [u8; 3]) -> RgbImage {
    RgbImage::from_fn((columns * cell) as u32, (rows * cell) as u32, |x, y| {
        let (x, y) = (x as i32, y as i32);
        let on_top = things.iter().rfind(|thing| {
            let centre = |cells: i32, offset: i32| cells * cell + cell / 2 + offset;
            thing.covers(x - centre(thing.column, thing.offset.0), y - centre(thing.row, thing.offset.1))
        });
        Rgb(on_top.map_or(background, |thing| COLOURS[thing.colour].1))
    })
}

fn describe(things: &[Thing]) -> String {
    things.iter().map(Thing::name).collect::<Vec<_>>().join(", ")
}

/// A question that has one right answer for these shapes.
fn ask(things: &[Thing], rng: &mut StdRng) -> (String, String) {
    let thing = pick(things, rng);
    let sharing = |same: &dyn Fn(&Thing) -> bool| things.iter().filter(|other| same(other)).count();
    let shape = SHAPES[thing.shape];
    let colour = COLOURS[thing.colour].0;
    match rng.random_range(0..6) {
        0 if sharing(&|other| other.shape == thing.shape) == 1 => (format!("What color is the {}?", shape.0), colour.into()),
        1 if sharing(&|other| other.colour == thing.colour) == 1 => (format!("What shape is {colour}?"), shape.0.into()),
        2 => {
            let count = NUMBERS[sharing(&|other| other.shape == thing.shape)];
            (format!("How many {} are there?", shape.1), count.into())
        }
        _ => ("Describe the picture.".into(), describe(things)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn a_seed_draws_the_same_puzzle_again() {
        let draw = || Puzzle::draw(&mut StdRng::seed_from_u64(7));
        assert_eq!((draw().picture, draw().question, draw().answer), (draw().picture, draw().question, draw().answer));
    }

    #[test]
    fn what_is_described_can_be_seen() {
        for seed in 0..50 {
            let puzzle = Puzzle::draw(&mut StdRng::seed_from_u64(seed));
            for (name, rgb) in COLOURS {
                let seen = puzzle.picture.pixels().any(|pixel| pixel.0 == rgb);
                if puzzle.question.starts_with("Describe") {
                    assert_eq!(puzzle.answer.contains(name), seen, "{name} in seed {seed}");
                }
            }
        }
    }
}
