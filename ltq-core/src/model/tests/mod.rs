//! The rules of a topic, by example and by history.

mod consuming;
mod ending;

mod loading;
mod publishing;
mod storing;
