//! What a text means, as an embeddings model tells it: a direction. Texts that
//! mean the same point nearly the same way.

/// Longest vector that is taken, in numbers. Bounds what a model's server can
/// make a caller's memories take.
pub const MAX_DIMENSIONS: usize = 4_096;

/// A direction, quantised to one byte for each number: a quarter of the memory,
/// and closer to the original than models are to each other.
#[derive(Debug, Clone, PartialEq)]
pub struct Vector {
    values: Box<[i8]>,
    /// What a step of the values is worth, so that the length is 1.
    step: f32,
}

/// The numbers are no direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is no vector of 1 to {MAX_DIMENSIONS} numbers that differ from 0")]
pub struct NoVector;

impl Vector {
    /// Takes the numbers of a model; their length does not matter.
    ///
    /// # Errors
    /// [`NoVector`]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a share of the largest is within -127 to 127"
    )]
    pub fn quantised(numbers: &[f32]) -> Result<Self, NoVector> {
        let largest = numbers.iter().fold(0f32, |most, n| most.max(n.abs()));
        let length = numbers.iter().map(|n| n * n).sum::<f32>().sqrt();
        let fits = (1..=MAX_DIMENSIONS).contains(&numbers.len());
        let points = largest > 0.0 && length.is_finite() && length > 0.0;
        if !(fits && points) {
            return Err(NoVector);
        }
        let share = |n: &f32| (n / largest * 127.0).round() as i8;
        Ok(Self {
            values: numbers.iter().map(share).collect(),
            step: largest / 127.0 / length,
        })
    }

    /// How alike two texts are: the cosine, -1 to 1; 0 for vectors of different
    /// lengths, which are of different models.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        reason = "a sum of products of bytes is small"
    )]
    pub fn likeness(&self, other: &Self) -> f32 {
        if self.values.len() != other.values.len() {
            return 0.0;
        }
        let products = self.values.iter().zip(&other.values);
        let sum: i32 = products.map(|(a, b)| i32::from(*a) * i32::from(*b)).sum();
        sum as f32 * self.step * other.step
    }

    /// As it is stored: the step, then the values.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let values = self.values.iter().map(|value| value.to_le_bytes()[0]);
        self.step.to_le_bytes().into_iter().chain(values).collect()
    }

    /// Reads what [`Vector::to_bytes`] made.
    ///
    /// # Errors
    /// [`NoVector`]
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, NoVector> {
        let (step, values) = bytes.split_first_chunk().ok_or(NoVector)?;
        let step = f32::from_le_bytes(*step);
        if values.is_empty() || values.len() > MAX_DIMENSIONS || !step.is_finite() {
            return Err(NoVector);
        }
        Ok(Self {
            values: values
                .iter()
                .map(|byte| i8::from_le_bytes([*byte]))
                .collect(),
            step,
        })
    }

    /// How many numbers it has.
    #[must_use]
    pub fn dimensions(&self) -> usize {
        self.values.len()
    }

    /// Memory taken, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        std::mem::size_of::<Self>() + self.values.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_no_direction_is_refused() {
        let long = vec![1.0; MAX_DIMENSIONS + 1];
        for wrong in [
            &[][..],
            &[0.0, 0.0],
            &[f32::NAN, 1.0],
            &[f32::INFINITY],
            &long,
        ] {
            assert_eq!(Vector::quantised(wrong), Err(NoVector));
        }
        for wrong in [&[][..], &[1, 2, 3], &[0, 0, 0, 0], &[0, 0, 192, 127, 1]] {
            assert_eq!(Vector::from_bytes(wrong), Err(NoVector));
        }
        let (a, b) = (
            Vector::quantised(&[1.0]).unwrap(),
            Vector::quantised(&[1.0, 0.0]).unwrap(),
        );
        assert_eq!(a.likeness(&b), 0.0);
    }

    proptest! {
        #[test]
        fn quantised_and_stored_it_points_the_same_way(
            pairs in prop::collection::vec((-1f32..1.0, -1f32..1.0), 8..400),
        ) {
            let (a, b): (Vec<f32>, Vec<f32>) = pairs.into_iter().unzip();
            let length = |v: &[f32]| v.iter().map(|n| n * n).sum::<f32>().sqrt();
            prop_assume!(length(&a) > 0.1 && length(&b) > 0.1);
            let exact = a.iter().zip(&b).map(|(a, b)| a * b).sum::<f32>() / length(&a) / length(&b);
            let (a, b) = (Vector::quantised(&a).unwrap(), Vector::quantised(&b).unwrap());
            let stored = Vector::from_bytes(&a.to_bytes()).unwrap();
            prop_assert_eq!(&stored, &a);
            prop_assert!((stored.likeness(&b) - exact).abs() < 0.02);
        }
    }
}
