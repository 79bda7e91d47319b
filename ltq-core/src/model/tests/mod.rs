//! The rules of a topic, by example and by history.

mod consuming;
mod discarding;
mod ending;
mod limits;
mod loading;
mod names;
mod overtaken;
mod publishing;
mod seats;
mod storing;
