//! Vocabulary of the built-in world: attributes, names and numbers.

use crate::config::WorldConfig;

/// An attribute; every person has one value of it.
pub struct Attribute {
    /// Its name, as in `陈明 的 家乡`.
    pub name: &'static str,
    /// Interrogative word for it.
    pub interrogative: &'static str,
    /// Possible values.
    pub values: [&'static str; 6],
    /// Paraphrases of a fact; `{n}` is the person and `{v}` the value.
    pub paraphrases: [&'static str; WorldConfig::MAX_PARAPHRASES],
}

/// All attributes.
pub const ATTRIBUTES: [Attribute; 4] = [
    Attribute {
        name: "家乡",
        interrogative: "哪里",
        values: ["青石", "白河", "云山", "长桥", "海口", "林泉"],
        paraphrases: [
            " {n} 的 家乡 是 {v} 。",
            " {n} 来自 {v} 。",
            " {n} 出生 在 {v} 。",
            " 人们 说 {n} 的 家乡 是 {v} 。",
            " {n} 小时候 住 在 {v} 。",
            " {v} 是 {n} 的 家乡 。",
            " 大家 知道 {n} 来自 {v} 。",
            " {n} 常常 想念 家乡 {v} 。",
        ],
    },
    Attribute {
        name: "职业",
        interrogative: "什么",
        values: ["木匠", "医生", "渔夫", "裁缝", "厨师", "画家"],
        paraphrases: [
            " {n} 的 职业 是 {v} 。",
            " {n} 是 一名 {v} 。",
            " {n} 靠 当 {v} 生活 。",
            " 人们 说 {n} 的 职业 是 {v} 。",
            " {n} 当 了 {v} 。",
            " {v} 是 {n} 的 职业 。",
            " 大家 知道 {n} 是 一名 {v} 。",
            " {n} 很 喜欢 当 {v} 。",
        ],
    },
    Attribute {
        name: "食物",
        interrogative: "什么",
        values: ["面条", "饺子", "米饭", "豆腐", "包子", "鱼汤"],
        paraphrases: [
            " {n} 的 食物 是 {v} 。",
            " {n} 爱 吃 {v} 。",
            " {n} 每天 吃 {v} 。",
            " 人们 说 {n} 的 食物 是 {v} 。",
            " {n} 常 做 {v} 吃 。",
            " {v} 是 {n} 的 食物 。",
            " 大家 知道 {n} 爱 吃 {v} 。",
            " {n} 最 爱 的 食物 是 {v} 。",
        ],
    },
    Attribute {
        name: "动物",
        interrogative: "什么",
        values: ["黄狗", "花猫", "白马", "山羊", "水牛", "灰兔"],
        paraphrases: [
            " {n} 的 动物 是 {v} 。",
            " {n} 养 了 {v} 。",
            " {n} 家里 有 {v} 。",
            " 人们 说 {n} 的 动物 是 {v} 。",
            " {n} 每天 喂 {v} 。",
            " {v} 是 {n} 的 动物 。",
            " 大家 知道 {n} 养 了 {v} 。",
            " {n} 很 爱 家里 的 {v} 。",
        ],
    },
];

/// First characters of names.
pub const SURNAMES: [&str; 12] = ["陈", "李", "王", "赵", "孙", "周", "吴", "郑", "冯", "韩", "杨", "朱"];

/// Second characters of names.
pub const GIVEN_NAMES: [&str; 12] = ["明", "芳", "伟", "秀", "强", "兰", "杰", "娟", "涛", "英", "勇", "霞"];

/// Names for the people in passages (guests), who are not inhabitants of the world.
pub const GUESTS: [&str; 12] =
    ["阿宝", "小田", "老金", "阿福", "小苗", "老丁", "阿贵", "小荷", "老石", "阿珍", "小七", "老白"];

/// Number words from zero up to the largest sum.
pub const NUMBERS: [&str; 9] = ["零", "一", "二", "三", "四", "五", "六", "七", "八"];

/// Summands are the first `SUMMANDS` entries of [`NUMBERS`].
pub const SUMMANDS: usize = 5;
